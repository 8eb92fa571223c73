//! Signals, in processes of their own.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::indexing_slicing,
    reason = "clippy takes the helpers of a test binary for production code"
)]

mod support;

use mirrormesh_runtime::shutdown::Shutdown;
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader};
use std::sync::mpsc;
use std::time::Duration;
use support::TestChild;

/// Stops in good order on the first signal if `WAIT_FOR_SECOND` is not set; else goes on for ever.
#[tokio::test]
#[ignore = "run by the tests below in a process of its own"]
async fn child_waits() {
    let shutdown = Shutdown::new();
    let _guard = shutdown.on_signals().unwrap();
    println!("\nwaiting");
    shutdown.cancelled().await;
    println!("\nstopping");
    if std::env::var_os("WAIT_FOR_SECOND").is_some() {
        std::future::pending::<()>().await;
    }
}

fn signal_at(line: &str, signal: Signal, child: &mut TestChild, lines: &mut impl Iterator<Item = String>) {
    assert!(lines.any(|got| got == line), "the child never said `{line}`");
    kill_process(Pid::from_child(&child.0), signal).unwrap();
}

/// The exit code of a child that ends in time; its output ends when it does.
fn ended(child: &mut TestChild, lines: impl Iterator<Item = String> + Send + 'static) -> Option<i32> {
    let (done, end) = mpsc::channel();
    std::thread::spawn(move || {
        lines.for_each(drop);
        done.send(()).unwrap();
    });
    end.recv_timeout(Duration::from_secs(10)).expect("the child does not end");
    child.0.wait().unwrap().code()
}

fn lines(child: &mut TestChild) -> impl Iterator<Item = String> + use<> {
    BufReader::new(child.0.stdout.take().unwrap()).lines().map_while(Result::ok)
}

#[test]
fn the_first_signal_asks_to_stop() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut child = TestChild::start("child_waits", &[]);
        let mut lines = lines(&mut child);
        signal_at("waiting", signal, &mut child, &mut lines);
        assert!(lines.any(|got| got == "stopping"));
        assert_eq!(ended(&mut child, lines), Some(0));
    }
}

#[test]
fn the_second_signal_ends_the_process_at_once() {
    let mut child = TestChild::start("child_waits", &[("WAIT_FOR_SECOND", "1")]);
    let mut lines = lines(&mut child);
    signal_at("waiting", Signal::INT, &mut child, &mut lines);
    signal_at("stopping", Signal::TERM, &mut child, &mut lines);
    assert_eq!(ended(&mut child, lines), Some(128 + 15));
}
