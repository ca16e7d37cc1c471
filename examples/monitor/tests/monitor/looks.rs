//! Checks of the page's layout.

use serde::Deserialize;

use crate::browser::Browser;

/// Measures all texts and pictures, and lists what is wrong.
const MEASURE: &str = r#"
    const wrong = [];
    const page = document.documentElement;
    if (page.scrollWidth > innerWidth) wrong.push(`the page is ${page.scrollWidth} wide`);
    const boxes = [];
    for (const svg of document.querySelectorAll("svg")) {
        const frame = svg.getBoundingClientRect();
        const name = svg.querySelector("title")?.textContent ?? "";
        if (svg.getAttribute("role") !== "img" || svg.getAttribute("aria-labelledby") !== svg.querySelector("title")?.id)
            wrong.push("a picture without a name");
        if (Math.abs(frame.width - svg.viewBox.baseVal.width) > 1) wrong.push(`drawn for ${svg.viewBox.baseVal.width}, shown at ${frame.width}`);
        const texts = [...svg.querySelectorAll("text")].map((text) => [text.textContent.trim(), text.getBoundingClientRect()]);
        for (const [text, box] of texts) {
            if (box.left < frame.left - 0.5 || box.right > frame.right + 0.5 || box.top < frame.top - 0.5 || box.bottom > frame.bottom + 0.5)
                wrong.push(`${name}: ${text} is cut off`);
        }
        texts.forEach(([one, a], number) => texts.slice(number + 1).forEach(([other, b]) => {
            if (a.left < b.right && b.left < a.right && a.top < b.bottom - 2 && b.top < a.bottom - 2) wrong.push(`${name}: ${one} is over ${other}`);
        }));
    }
    for (const item of document.querySelectorAll("h1, h2, .unit, .now, .segments span, .legend li, td, th, .books")) {
        if (item.scrollWidth > item.clientWidth + 1 && getComputedStyle(item).display !== "inline") wrong.push(`${item.textContent} is cut off`);
    }
    for (const input of document.querySelectorAll("input")) {
        if (!input.labels[0]?.textContent.trim()) wrong.push(`${input.name} without a label`);
        if (input.labels[0]?.getBoundingClientRect().height < 24) wrong.push(`${input.name} is too small for a finger`);
    }
    return { wrong, pictures: document.querySelectorAll("svg text").length };
"#;

#[derive(Debug, Deserialize)]
struct Measured {
    wrong: Vec<String>,
    pictures: usize,
}

/// Asserts that the layout is right, once the pictures have been drawn for the current width.
pub(crate) async fn right(browser: &Browser, width: u32) {
    let measured = browser.until("a page without faults", async |browser| {
        let measured: Measured =
            serde_json::from_value(browser.ask(MEASURE).await).expect("what was measured");
        let is_right = measured.wrong.is_empty() && measured.pictures > 0;
        if is_right { Ok(()) } else { Err(format!("at a width of {width}: {:#?}", measured.wrong)) }
    });
    measured.await;
}
