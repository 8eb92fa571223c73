//! The clients that the product uses, against the fake and against real brokers.

use super::cases;
use super::ops::*;
use super::target::Target;

cases!(solo: todo_client);

async fn todo_client(target: Target) {
    let _ = topic(&target, &[]).await;
}
