//! How a chromedriver and the browsers that it starts are run.

use std::path::PathBuf;
use std::process::Command;

use super::find;
use super::lifetime::Home;

const MISSING: &str = "this test needs Chromium and its chromedriver, which were not found: \
    `apt-get install chromium chromium-driver`, \
    or set ATOMICALLY_CHROMIUM_BIN to the directories of the programs";

/// A driver, and the browser that it is to start.
#[derive(Debug)]
pub(super) struct Chromedriver {
    driver: PathBuf,
    browser: PathBuf,
}

impl Chromedriver {
    pub(super) fn find() -> Result<Self, String> {
        let directories = find::search_path("ATOMICALLY_CHROMIUM_BIN", find::path);
        let driver = find::program(&directories, &["chromedriver"]).ok_or(MISSING)?;
        let browsers = ["chromium", "chromium-browser", "google-chrome"];
        let browser = find::program(&directories, &browsers).ok_or(MISSING)?;
        Ok(Self { driver, browser })
    }

    pub(super) fn browser(&self) -> PathBuf {
        self.browser.clone()
    }
}

impl super::Engine for Chromedriver {
    fn scheme(&self) -> &'static str {
        "http"
    }

    fn users(&self) -> &'static [&'static str] {
        &["nobody"]
    }

    fn install(&self, _home: &Home) -> Result<(), String> {
        Ok(())
    }

    fn serve(&self, home: &Home, port: u16) -> Result<Command, String> {
        let mut driver = home.command(&self.driver)?;
        driver.arg(format!("--port={port}"));
        Ok(driver)
    }

    fn is_ready(&self, home: &Home, _pid: u32) -> bool {
        home.log().contains("started successfully")
    }
}
