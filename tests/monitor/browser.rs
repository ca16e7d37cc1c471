//! A browser without a screen.

use std::fmt::Debug;
use std::time::{Duration, Instant};

use fantoccini::wd::WebDriverCompatibleCommand;
use fantoccini::{Client, ClientBuilder, Locator};
use hyper::Method;
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tokio::task::spawn_blocking;
use url::{ParseError, Url};

use crate::support::servers::Server;

/// Far more than anything takes that is waited for here, and less than a CI job that hangs.
const LIMIT: Duration = Duration::from_secs(90);

/// One page of a browser of its own.
pub(crate) struct Browser {
    client: Client,
    // Ends the browser as well, however the test ends.
    _driver: Server,
}

/// A command that WebDriver does not have, and chromedriver has.
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
    /// At this address, in a window of this size.
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

    /// Makes the window as large as this, though it may be smaller than windows can be.
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

    /// What it has to complain about.
    pub(crate) async fn complaints(&self) -> Vec<Value> {
        let command = Chrome { path: "se/log", body: json!({ "type": "browser" }) };
        let log = self.client.issue_cmd(command).await.expect("the console");
        log.as_array().expect("a list").clone()
    }

    /// What the script answers.
    pub(crate) async fn ask(&self, script: &str) -> Value {
        self.client.execute(script, Vec::new()).await.expect("an answer of the page")
    }

    /// What is behind the path, on the site that the page is of.
    pub(crate) async fn fetch(&self, path: &str) -> String {
        let script = "const [path, done] = arguments; fetch(path).then((answer) => answer.text()).then(done)";
        let text = self.client.execute_async(script, vec![json!(path)]).await.expect("an answer of the site");
        text.as_str().expect("text").to_owned()
    }

    pub(crate) async fn click(&self, selector: &str) {
        let found = self.client.find(Locator::Css(selector)).await.expect(selector);
        found.click().await.expect(selector);
    }

    /// Presses a key, while this has the focus.
    pub(crate) async fn press(&self, selector: &str, key: fantoccini::key::Key) {
        let found = self.client.find(Locator::Css(selector)).await.expect(selector);
        found.send_keys(&key.to_string()).await.expect(selector);
    }

    /// Asks again and again until something comes of it.
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

    /// Ends it, which takes a moment, and would be done anyhow.
    pub(crate) async fn close(self) {
        self.client.close().await.expect("an end");
    }
}
