//! The flow's entry in the target's registry, before anything of a generation is appended.
//!
//! Looks, writes what is missing, and looks again: what stands there in the end is what others see.

use mirrormesh_core::registry::{Applicant, RegistryKey, RegistryValue, Seen, Writer};

use super::stream::Stream;
use super::{Ask, Phase, Relay};

/// Another owner or mesh may write at the same time: so often what was written is looked for before it is waited.
const WRITES_MAX: u32 = 3;

/// What follows.
#[derive(Debug)]
pub(super) enum Then {
    Locate,
    Stream(Box<Stream>),
}

/// Where it is.
#[derive(Debug)]
pub(super) struct Registering {
    then: Then,
    missing: Vec<(RegistryKey, RegistryValue)>,
    writes: u32,
    asked: bool,
}

impl Registering {
    pub(super) fn ask(&mut self) -> Option<Ask> {
        if std::mem::replace(&mut self.asked, true) {
            return None;
        }
        if self.missing.is_empty() {
            return Some(Ask::Registry);
        }
        Some(Ask::Register(self.missing.clone()))
    }

    /// What was missing is written.
    pub(super) fn look_again(&mut self) {
        self.missing.clear();
        self.writes += 1;
        self.asked = false;
    }
}

impl Relay {
    /// Makes sure that the present generation is in the registry, then goes on.
    pub(super) fn register(&mut self, then: Then) {
        if self.registered == Some(self.setup.detail.begun) {
            self.go_on(then);
        } else {
            let missing = Vec::new();
            self.phase = Phase::Registering(Registering { then, missing, writes: 0, asked: false });
        }
    }

    fn go_on(&mut self, then: Then) {
        match then {
            Then::Locate => self.locate(),
            Then::Stream(stream) => self.phase = Phase::Streaming(stream),
        }
    }

    /// Answers [`Ask::Registry`].
    pub(super) fn registry(&mut self, seen: &Seen) {
        let applicant = self.applicant();
        let Phase::Registering(registering) = &mut self.phase else { return };
        match applicant.missing(seen) {
            Err(stop) => self.phase = Phase::Stopped { stop, said: false },
            Ok(missing) if missing.is_empty() => {
                self.registered = Some(self.setup.detail.begun);
                let then = std::mem::replace(&mut registering.then, Then::Locate);
                self.go_on(then);
            }
            Ok(_) if registering.writes >= WRITES_MAX => {
                let message = "others write the flow's entries in the target's registry too; trying again";
                self.wait("REGISTRY_DISPUTED", message);
            }
            Ok(missing) => {
                registering.missing = missing;
                registering.asked = false;
            }
        }
    }

    fn applicant(&self) -> Applicant {
        let (setup, detail) = (&self.setup, &self.setup.detail);
        Applicant {
            topic: detail.target_topic.clone(),
            partition: setup.partition,
            writer: Writer {
                source_cluster: String::new(),
                source: setup.source.clone(),
                flow: setup.flow.clone(),
                mesh_id: setup.mesh_id.clone(),
                source_topic: setup.topic.clone(),
                source_topic_id: detail.source_topic_id,
                target_topic_id: detail.target_topic_id,
                // The Raft log fixed it: every owner registers alike, and nothing of the id was appended before it.
                first_offset: detail.begun.start.target_offset,
                begun: detail.begun,
            },
        }
    }
}
