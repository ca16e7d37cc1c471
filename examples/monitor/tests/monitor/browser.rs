//! A headless browser.

use std::fmt::Debug;
use std::time::{Duration, Instant};

use fantoccini::wd::WebDriverCompatibleCommand;
use fantoccini::{Client, ClientBuilder, Locator};
use hyper::Method;
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use test_servers::Server;
use tokio::task::spawn_blocking;
use url::{ParseError, Url};

/// Far more than anything that is waited for here takes, and less than a CI job that hangs.
const LIMIT: Duration = Duration::from_secs(90);

/// One page of a browser of its own.
pub(crate) struct Browser {
    client: Client,
    // Ends the browser as well, however the test ends.
    _driver: Server,
}

/// A command of chromedriver that is not part of WebDriver.
#[derive(Debug)]
struct Chrome {
    path: &'static str,
    body: Value,
}

impl WebDriverCompatibleCommand for Chrome {
    fn endpoint(&self, base: &Url, session: Option<&str>) -> Result<Url, ParseError> {
        base.join(&format!("session/{}/{}", session.unwrap_or_default(), self.path))
    }

    fn method_and_body(&self, _url: &Url) -> (Method, Option<String>) {
        (Method::POST, Some(self.body.to_string()))
    }
}

impl Browser {
    /// Opens the address in a window of this size.
    pub(crate) async fn at(address: &str, size: (u32, u32)) -> Self {
        let (driver, program) = spawn_blocking(Server::chromedriver).await.expect("a driver");
        // In containers, browsers have no sandbox, and little shared memory.
        let options = json!({
            "binary": program,
            "args": ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"],
        });
        let wanted = json!({ "goog:chromeOptions": options, "goog:loggingPrefs": { "browser": "ALL" } });
        let Value::Object(wanted) = wanted else { unreachable!("it is an object") };
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(wanted)
            .connect(&format!("http://127.0.0.1:{}", driver.port()))
            .await
            .expect("a browser");
        let browser = Self { client, _driver: driver };
        browser.resize(size).await;
        browser.client.goto(address).await.expect("the page");
        browser
    }

    /// Resizes the page, also to sizes that are too small for a window.
    pub(crate) async fn resize(&self, (width, height): (u32, u32)) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.devtools("Emulation.setDeviceMetricsOverride", size).await;
    }

    async fn devtools(&self, command: &str, parameters: Value) {
        let body = json!({ "cmd": command, "params": parameters });
        self.client
            .issue_cmd(Chrome { path: "goog/cdp/execute", body })
            .await
            .expect("a command of the browser");
    }

    /// The entries of the browser's console.
    pub(crate) async fn complaints(&self) -> Vec<Value> {
        let command = Chrome { path: "se/log", body: json!({ "type": "browser" }) };
        let log = self.client.issue_cmd(command).await.expect("the console");
        log.as_array().expect("a list").clone()
    }

    /// Runs a script and returns its result.
    pub(crate) async fn ask(&self, script: &str) -> Value {
        self.client.execute(script, Vec::new()).await.expect("an answer of the page")
    }

    /// Fetches a path of the page's own site.
    pub(crate) async fn fetch(&self, path: &str) -> String {
        let script = "const [path, done] = arguments; fetch(path).then((answer) => answer.text()).then(done)";
        let text = self.client.execute_async(script, vec![json!(path)]).await.expect("an answer of the site");
        text.as_str().expect("text").to_owned()
    }

    pub(crate) async fn click(&self, selector: &str) {
        let found = self.client.find(Locator::Css(selector)).await.expect(selector);
        found.click().await.expect(selector);
    }

    /// Presses a key while the element has the focus.
    pub(crate) async fn press(&self, selector: &str, key: fantoccini::key::Key) {
        let found = self.client.find(Locator::Css(selector)).await.expect(selector);
        found.send_keys(&key.to_string()).await.expect(selector);
    }

    /// Repeats the check until it succeeds.
    pub(crate) async fn until<T>(
        &self,
        what: &str,
        mut ask: impl AsyncFnMut(&Self) -> Result<T, String>,
    ) -> T {
        let started = Instant::now();
        loop {
            match ask(self).await {
                Ok(wanted) => return wanted,
                Err(instead) => {
                    assert!(started.elapsed() < LIMIT, "{what}: not after {LIMIT:?}, but {instead}");
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Ends the browser, which would also happen on drop.
    pub(crate) async fn close(self) {
        self.client.close().await.expect("an end");
    }
}
