//! Whether putting small batches together pays, by what it was measured to cost.
//!
//! A batch that passes as it is costs a fixed share of work, here and at least as much again at the target; one that is
//! put together with others saves that share, at the price of decoding and encoding its records. Where a backlog waits for
//! acknowledgements, time counts besides: a broker answers one request of a connection at a time, and a request holds one
//! batch of each partition, so a partition moves one batch per acknowledgement. Owns the measurements and the decision. Must not know clocks: the shell measures. Without measurements, the decision goes by what was seen
//! on a machine with two cores (docs/relay-cost.md), and is a pure function of the batches.

use mirrormesh_core::format::batch::BatchHeader;

/// Batches of more bytes than this always pass as they are: what is saved is lost in what is copied.
const SMALL_BYTES_MAX: usize = 32 << 10;
/// Batches of this size and less are always worth putting together.
const SMALL_BYTES_MIN: usize = 512;
/// A batch made of small ones has at most about this many bytes.
const TOGETHER_BYTES_MAX: usize = 256 << 10;
/// And at most so many batches in it.
const TOGETHER_BATCHES_MAX: usize = 1_000;
/// Fewer small batches than this go as they are.
const TOGETHER_BATCHES_MIN: usize = 4;
/// Where a backlog waits for acknowledgements, batches up to this size are put together: two of them at least.
const WAITING_BYTES_MAX: usize = TOGETHER_BYTES_MAX / 2;
/// Then a batch that is made of them has at most about this many bytes: as large as Kafka's default of what a topic takes.
const WAITING_TOGETHER_BYTES_MAX: usize = 1 << 20;
const WAITING_BATCHES_MIN: usize = 2;
/// A partition with so many batches in flight has a backlog.
const BACKLOG_MIN: usize = 4;
/// An acknowledgement that takes less time per batch tells of a busy processor rather than of replicas that are waited for.
const ACK_NS_MIN: u64 = 2_000_000;
/// Decoding and encoding a batch may take this part of the time that it saves at most.
const ACK_PART: u64 = 4;
/// What passing one batch costs beside what its bytes cost, ns, before it was measured.
const PASSING_NS: u64 = 25_000;
/// The measurement is believed within these bounds.
const PASSING_NS_BOUNDS: (u64, u64) = (5_000, 100_000);
/// What each byte costs that passes, ps: the kernel copies it twice.
const PASSED_BYTE_PS: u64 = 400;
/// A second with fewer batches says nothing: what a process does besides would be taken for their cost.
const BATCHES_PER_SECOND_MIN: u64 = 500;
/// Decoding and encoding, ps per byte as it is in the batch, before it was measured: by codec number.
const REBUILD_PS: [u64; 8] = [1_000, 30_000, 3_000, 3_000, 8_000, 8_000, 8_000, 8_000];
/// A measurement counts one part in so many.
const WEIGHT: u64 = 8;
/// After about so many batches that were not worth it, it is tried again: what was measured may have been an accident.
const FORGETTING: i64 = 1_024;

/// What one partition's batches cost.
#[derive(Debug, Clone, Copy)]
pub struct Economy {
    passing_ns: u64,
    rebuild_ps: [u64; 8],
    ack_ns: u64,
    in_flight: usize,
}

impl Default for Economy {
    fn default() -> Self {
        Self { passing_ns: PASSING_NS, rebuild_ps: REBUILD_PS, ack_ns: 0, in_flight: 0 }
    }
}

impl Economy {
    /// What passing one batch costs beside its bytes, ns: see [`PassingCost`].
    pub fn passing_ns(&mut self, ns: u64) {
        self.passing_ns = ns;
    }

    /// The time in which the target acknowledges one batch while further requests wait there, ns; 0 if none wait.
    pub fn ack_ns(&mut self, ns: u64) {
        self.ack_ns = ns;
    }

    /// How many batches of the partition are in flight.
    pub fn in_flight(&mut self, batches: usize) {
        self.in_flight = batches;
    }

    /// Batches of so many bytes in all, the first of which is this one, were put together in so many ns; 0: nobody
    /// measured.
    pub fn put_together(&mut self, first: &BatchHeader, bytes: usize, ns: u64) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        if let Some(known) = self.rebuild_ps.get_mut(codec(first))
            && let Some(seen) = ns.saturating_mul(1_000).checked_div(bytes)
            && ns > 0
        {
            *known = smoothed(*known, seen);
        }
    }

    /// How many batches, from `first` on, are to be put into one; less than two is none. `sizes` are those of batches,
    /// the first included, that would pass as they are and follow each other. `refused`: the target refused a batch for its
    /// size, so it may take less than `target_bytes_max`.
    pub fn together(
        &mut self,
        first: &BatchHeader,
        sizes: impl Iterator<Item = usize>,
        target_bytes_max: usize,
        refused: bool,
    ) -> usize {
        let (small, least) = self.worth(first);
        let most = if self.waits() && codec(first) == 0 && !refused {
            // Records that are not compressed get no larger, however the target stores them.
            WAITING_TOGETHER_BYTES_MAX.min(target_bytes_max / 4 * 3)
        } else {
            TOGETHER_BYTES_MAX.min(target_bytes_max / 2)
        };
        let (mut count, mut bytes) = (0, 0_usize);
        for size in sizes {
            bytes = bytes.saturating_add(size);
            if size > small && count == 0 && size <= SMALL_BYTES_MAX {
                self.forget(first);
            }
            if size > small || bytes > most || count == TOGETHER_BATCHES_MAX {
                break;
            }
            count += 1;
        }
        if count < least { 0 } else { count }
    }

    /// The most bytes that a batch may have to be worth it, and how many batches it takes at least.
    fn worth(&self, first: &BatchHeader) -> (usize, usize) {
        let small = self.small_bytes(first);
        if !self.waits() {
            return (small, TOGETHER_BATCHES_MIN);
        }
        let rebuild_ps = self.rebuild_ps.get(codec(first)).copied().unwrap_or(u64::MAX);
        let saved_ps = self.ack_ns.saturating_mul(1_000) / ACK_PART;
        let bytes = saved_ps.checked_div(rebuild_ps).unwrap_or(u64::MAX);
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX).min(WAITING_BYTES_MAX);
        (bytes.max(small), WAITING_BATCHES_MIN)
    }

    /// A backlog waits for acknowledgements.
    fn waits(&self) -> bool {
        self.in_flight >= BACKLOG_MIN && self.ack_ns >= ACK_NS_MIN
    }

    /// The most bytes that a batch may have to be worth it: of four that are put together, three are saved, here and at
    /// the target.
    fn small_bytes(&self, first: &BatchHeader) -> usize {
        let rebuild_ps = self.rebuild_ps.get(codec(first)).copied().unwrap_or(u64::MAX);
        let worth_ps = self.passing_ns.saturating_mul(2 * 750);
        let bytes = worth_ps.checked_div(rebuild_ps).unwrap_or(u64::MAX);
        usize::try_from(bytes).unwrap_or(usize::MAX).clamp(SMALL_BYTES_MIN, SMALL_BYTES_MAX)
    }

    /// It was measured not to pay: goes back a little towards what is believed without measurements.
    fn forget(&mut self, first: &BatchHeader) {
        let index = codec(first);
        if let (Some(known), Some(believed)) = (self.rebuild_ps.get_mut(index), REBUILD_PS.get(index)) {
            let left = believed.cast_signed() - known.cast_signed();
            *known = known.saturating_add_signed(left / FORGETTING + left.signum());
        }
    }
}

/// What passing a batch costs in a whole process, seen second by second.
#[derive(Debug, Clone, Copy)]
pub struct PassingCost {
    ns: u64,
}

/// What a process did in a second or so.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spent {
    /// Processor time, user and system, ns.
    pub cpu_ns: u64,
    /// Batches that went as they were.
    pub passed: u64,
    /// Batches that were made here.
    pub made: u64,
    /// Bytes of all of them.
    pub bytes: u64,
}

impl Default for PassingCost {
    fn default() -> Self {
        Self { ns: PASSING_NS }
    }
}

impl PassingCost {
    /// A second went by. It counts only if nearly all that went out passed as it was: otherwise the cost of making
    /// batches would be taken for that of passing them.
    pub fn seen(&mut self, spent: Spent) {
        if spent.passed < BATCHES_PER_SECOND_MIN || spent.made > spent.passed / 10 {
            return;
        }
        let copying_ns = spent.bytes.saturating_mul(PASSED_BYTE_PS) / 1_000;
        if let Some(ns) = spent.cpu_ns.saturating_sub(copying_ns).checked_div(spent.passed) {
            let (least, most) = PASSING_NS_BOUNDS;
            self.ns = smoothed(self.ns, ns).clamp(least, most);
        }
    }

    /// Per batch, beside what its bytes cost, ns.
    pub fn ns(&self) -> u64 {
        self.ns
    }
}

/// An outlier counts as four times what was known at most: a thread may have been held up while it measured.
fn smoothed(known: u64, seen: u64) -> u64 {
    let seen = seen.min(known.saturating_mul(4)).max(1);
    known - known / WEIGHT + seen.div_ceil(WEIGHT)
}

fn codec(header: &BatchHeader) -> usize {
    usize::from(header.codec().cast_unsigned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use mirrormesh_core::format::samples::header;

    const WIDE: usize = 1_048_588;

    fn of_codec(codec: i16) -> BatchHeader {
        BatchHeader { attributes: codec, ..header(10, 5) }
    }

    fn together(economy: &mut Economy, first: &BatchHeader, sizes: &[usize]) -> usize {
        economy.together(first, sizes.iter().copied(), WIDE, false)
    }

    #[test]
    fn small_batches_in_a_row_are_put_together() {
        let (mut economy, plain) = (Economy::default(), of_codec(0));
        assert_eq!(together(&mut economy, &plain, &[100; 3]), 0, "too few");
        assert_eq!(together(&mut economy, &plain, &[100; 10]), 10);
        assert_eq!(together(&mut economy, &plain, &[100, 100, 100, 100, 65_000, 100]), 4);
        assert_eq!(together(&mut economy, &plain, &[4_000; 200]), TOGETHER_BYTES_MAX / 4_000);
        assert_eq!(
            economy.together(&plain, [100; 10].into_iter(), 1_000, false),
            5,
            "the target takes no more"
        );
        assert_eq!(together(&mut economy, &plain, &[100; 2_000]), TOGETHER_BATCHES_MAX);
    }

    #[test]
    fn what_is_small_depends_on_what_it_costs() {
        let mut economy = Economy::default();
        let (plain, zstd) = (of_codec(0), of_codec(4));
        assert_eq!(together(&mut economy, &plain, &[16_000; 10]), 10);
        assert_eq!(together(&mut economy, &zstd, &[16_000; 10]), 0, "decoding costs more than it saves");
        assert_eq!(together(&mut economy, &zstd, &[4_000; 10]), 10);
        economy.passing_ns(100_000);
        assert_eq!(together(&mut economy, &zstd, &[16_000; 10]), 10, "passing is dear here");
        economy.passing_ns(5_000);
        assert_eq!(together(&mut economy, &plain, &[16_000; 10]), 0, "passing is cheap here");
        assert_eq!(together(&mut economy, &plain, &[500; 10]), 10, "tiny ones always are");
        economy.passing_ns(u64::MAX);
        assert_eq!(together(&mut economy, &plain, &[SMALL_BYTES_MAX + 1; 10]), 0, "large ones never are");
    }

    #[test]
    fn what_was_measured_decides_and_is_doubted_after_a_while() {
        let (mut economy, plain) = (Economy::default(), of_codec(0));
        for _ in 0..20 {
            // 10 ns per byte.
            economy.put_together(&plain, 100_000, 1_000_000);
        }
        assert_eq!(together(&mut economy, &plain, &[16_000; 10]), 0);
        assert_eq!(together(&mut economy, &of_codec(2), &[5_000; 10]), 10, "of another codec");
        let tries = (1..100_000).find(|_| together(&mut economy, &plain, &[16_000; 10]) > 0);
        assert!(tries.is_some_and(|tries| (1_000..10_000).contains(&tries)), "{tries:?}");
        economy.put_together(&plain, 100_000, 1_000_000_000);
        assert_eq!(together(&mut economy, &plain, &[16_000; 10]), 0, "once more it does not pay");
    }

    #[test]
    fn nobody_measured_and_one_accident_change_little() {
        let (mut economy, plain) = (Economy::default(), of_codec(0));
        economy.put_together(&plain, 100_000, 0);
        economy.put_together(&plain, 0, 5);
        assert_eq!(together(&mut economy, &plain, &[30_000; 10]), 8);
        economy.put_together(&plain, 100_000, 1_000_000_000);
        assert_eq!(together(&mut economy, &plain, &[26_000; 10]), 10);
    }

    #[test]
    fn passing_is_measured_where_it_is_what_happens() {
        let mut cost = PassingCost::default();
        let spent = Spent { cpu_ns: 1_000_000_000, passed: 10_000, made: 0, bytes: 1_000_000_000 };
        for _ in 0..40 {
            cost.seen(spent);
        }
        assert!((59_000..61_000).contains(&cost.ns()), "(1 s - 0.4 s) / 10,000: {}", cost.ns());
        let before = cost.ns();
        cost.seen(Spent { passed: 499, ..spent });
        cost.seen(Spent { made: 1_001, ..spent });
        cost.seen(Spent::default());
        assert_eq!(cost.ns(), before, "these say nothing");
        for _ in 0..100 {
            cost.seen(Spent { cpu_ns: 0, ..spent });
        }
        assert_eq!(cost.ns(), PASSING_NS_BOUNDS.0);
    }

    #[test]
    fn a_backlog_that_waits_for_replicas_goes_in_larger_batches() {
        let (mut economy, plain, gzip) = (Economy::default(), of_codec(0), of_codec(1));
        let large = [64 << 10; 10];
        economy.ack_ns(5_000_000);
        assert_eq!(together(&mut economy, &plain, &large), 0, "nothing waits");
        economy.in_flight(BACKLOG_MIN);
        assert_eq!(together(&mut economy, &plain, &large), 10);
        assert_eq!(together(&mut economy, &plain, &[100 << 10; 2]), 2, "two save one acknowledgement");
        assert_eq!(together(&mut economy, &plain, &[WAITING_BYTES_MAX + 1; 2]), 0);
        assert_eq!(economy.together(&plain, [64 << 10; 30].into_iter(), 8 << 20, false), 16, "up to 1 MiB");
        assert_eq!(
            economy.together(&plain, large.into_iter(), 256 << 10, false),
            3,
            "the target takes no more"
        );
        assert_eq!(together(&mut economy, &gzip, &large), 0, "decoding takes longer than what it saves");
        assert_eq!(
            together(&mut economy, &gzip, &[32 << 10; 10]),
            8,
            "the target may store it larger than it is sent"
        );
        let after = economy.together(&plain, large.into_iter(), WIDE, true);
        assert_eq!(after, 4, "as the target refused a large one");
        assert_eq!(together(&mut economy, &plain, &large), 10);
        economy.ack_ns(ACK_NS_MIN - 1);
        assert_eq!(together(&mut economy, &plain, &large), 0, "acknowledged at once");
        assert_eq!(together(&mut economy, &plain, &[4_000; 3]), 0, "as without a backlog");
    }
}
