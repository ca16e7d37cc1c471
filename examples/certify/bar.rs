//! Shows a progress bar on a terminal.

use std::io::{IsTerminal as _, Write as _};

use atomically::testing::CertifyProgress;

const WIDTH: usize = 30;

pub(crate) fn show(progress: &CertifyProgress) {
    if !std::io::stderr().is_terminal() {
        return;
    }
    let done = progress.done * WIDTH / progress.total.max(1);
    let bar: String = (0..WIDTH).map(|at| if at < done { '█' } else { '░' }).collect();
    eprint!("\r\x1b[2K{bar} {}", progress.check);
    let _ = std::io::stderr().flush();
}

pub(crate) fn clear() {
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[2K");
    }
}
