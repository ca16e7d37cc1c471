//! The outages of the server.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::clock::Clock;
use crate::support::servers::Server;

#[derive(Debug, Clone, Copy)]
enum Trouble {
    /// SIGKILL, and a restart after this time.
    Kill(Duration),
    /// SIGSTOP, and SIGCONT after this time.
    Freeze(Duration),
}

/// A storm of a minute or more has longer outages and a second kill; its last third has none.
fn script(total: Duration) -> Vec<(Duration, Trouble)> {
    let seconds = Duration::from_secs;
    let script = if total < seconds(60) {
        vec![(0.25, Trouble::Kill(seconds(2))), (0.5, Trouble::Freeze(seconds(2)))]
    } else {
        vec![
            (0.2, Trouble::Kill(seconds(3))),
            (0.4, Trouble::Freeze(seconds(6))),
            (0.6, Trouble::Kill(seconds(3))),
        ]
    };
    script.into_iter().map(|(part, trouble)| (total.mul_f64(part), trouble)).collect()
}

/// Executes the script of outages, and returns after the last one.
pub(crate) async fn run(mut server: Server, total: Duration, clock: &Arc<Clock>) -> Server {
    for (when, trouble) in script(total) {
        sleep(when.saturating_sub(clock.elapsed())).await;
        let clock = clock.clone();
        let happens = move || {
            happen(&mut server, trouble, &clock);
            server
        };
        server = spawn_blocking(happens).await.expect("a server that is there again");
    }
    server
}

fn happen(server: &mut Server, trouble: Trouble, clock: &Clock) {
    match trouble {
        Trouble::Kill(down) => {
            server.kill();
            clock.outage_begins("killed");
            thread::sleep(down);
            clock.server_may_respond();
            server.restart();
        }
        Trouble::Freeze(time) => {
            let frozen = server.freeze();
            clock.outage_begins("frozen");
            thread::sleep(time);
            clock.server_may_respond();
            drop(frozen);
        }
    }
    clock.outage_ends();
}
