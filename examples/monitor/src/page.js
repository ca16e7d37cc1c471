// The server draws, and this puts what it draws where it belongs.
const live = document.getElementById("live");
const form = document.forms[0];
let source;

function listen() {
  source?.close();
  const chart = live.querySelector("figure");
  const { paddingLeft, paddingRight } = getComputedStyle(chart);
  const width = chart.clientWidth - parseFloat(paddingLeft) - parseFloat(paddingRight);
  source = new EventSource(`/live?width=${Math.floor(width)}`);
  source.onmessage = (event) => { live.innerHTML = event.data; };
  source.onopen = () => document.body.classList.remove("cut-off");
  source.onerror = () => document.body.classList.add("cut-off");
  // Somebody else may have chosen, on another page.
  source.addEventListener("settings", (event) => {
    for (const [name, value] of Object.entries(JSON.parse(event.data))) form.elements[name].value = value;
  });
}

form.addEventListener("change", () => {
  const body = new URLSearchParams(new FormData(form));
  fetch(form.action, { method: "post", body, redirect: "manual" }).catch(() => document.body.classList.add("cut-off"));
});

let resized;
addEventListener("resize", () => {
  clearTimeout(resized);
  resized = setTimeout(listen, 150);
});
listen();
