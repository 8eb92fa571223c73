//! Which broker coordinates which group.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// Coordinators remembered; beyond that all are forgotten.
const COORDINATORS_MAX: usize = 100_000;

/// Which broker coordinates which group, as far as asked for.
#[derive(Default)]
pub(crate) struct Coordinators {
    /// Held for an instant only.
    nodes: Mutex<HashMap<Arc<str>, i32>>,
}

impl Coordinators {
    pub(crate) fn get(&self, group: &str) -> Option<i32> {
        self.nodes.lock().get(group).copied()
    }

    pub(crate) fn learn(&self, group: &str, node: i32) {
        let mut nodes = self.nodes.lock();
        if nodes.len() >= COORDINATORS_MAX {
            nodes.clear();
        }
        nodes.insert(group.into(), node);
    }

    pub(crate) fn forget(&self, group: &str) {
        self.nodes.lock().remove(group);
    }
}
