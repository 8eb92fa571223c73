//! Strays that come later than a strict flow waits for them: requests of connections that were given up.
//!
//! Strict delivery rests on two things (`relay/machine/strict.rs`): nothing old is sent while strays may come, and a marker
//! stands before each append. As long as the wait holds, a marker that is missing is not missed. In these worlds it does
//! not hold, and the markers alone keep what is there from standing twice. So a stray comes just before an append of the
//! present owner's: behind the marker, if there is one.
//!
//! Left out is what a marker does not help against: a stray between an append of old records and the next marker; a batch
//! that begins a generation, which is taken where the target had forgotten the sequences before the marker came; and that
//! the target looks for silent producers just when it took old records from a stray, under the append behind it.

use mirrormesh_core::format::batch::BatchHeader;

use crate::world::{Event, Order, Request, World};

/// So long behind a stray that was taken, the target forgets nobody.
const QUIET_MS: u64 = 10_000;

/// A request that is still on its way.
#[derive(Debug)]
pub struct Late {
    /// It does not come before this.
    when: u64,
    connection: usize,
    request: Request,
}

impl World {
    /// How much later strays come.
    pub fn later(&self) -> u64 {
        if self.knobs.late { self.knobs.limits.strays_ms } else { 0 }
    }

    /// Now and then a connection breaks as soon as something was sent on it.
    pub fn lose(&mut self, c: usize) {
        if self.knobs.late && !self.healing && self.apart.percent(5) {
            self.at(0, Event::ConnectionDied(c));
        }
    }

    /// A request of a connection that was given up is on its way until then.
    pub fn hold(&mut self, when: u64, connection: usize, request: Request) {
        if !begins(&request) {
            self.late.push(Late { when, connection, request });
        }
    }

    /// An append that came on this connection is the next thing that the target handles: what comes before it?
    pub fn strays_before(&mut self, c: usize) {
        let connection = &self.connections[c];
        if !connection.open || connection.owner != self.raft.owner {
            return;
        }
        let (now, connections) = (self.now, &self.connections);
        let comes = |late: &mut Late| late.when <= now && connections[late.connection].waiting.is_none();
        let coming: Vec<_> = self.late.extract_if(.., comes).collect();
        for Late { connection, request, .. } in coming {
            let end = self.target.end;
            self.say(|| format!("a late stray of connection {connection} comes: {}", request.id));
            self.strays += 1;
            self.connections[connection].inbox.push_back(request);
            self.process(connection);
            if self.target.end != end {
                self.quiet_until = self.now + QUIET_MS;
            }
        }
    }

    /// The target looks for silent producers.
    pub fn forgets(&mut self) -> bool {
        self.now >= self.quiet_until && self.target.expire(self.now as i64)
    }
}

/// The first batch of a generation.
fn begins(request: &Request) -> bool {
    match &request.order {
        Order::Append { batch, .. } => BatchHeader::parse(&batch.header).is_none_or(|h| h.base_sequence == 0),
        Order::Mark(_) => false,
    }
}
