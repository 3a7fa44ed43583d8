//! Which queue comes when. Bands of priority are read by weight, and what has waited for long counts as one of a higher
//! band; the queues of a band share what is claimed, and begin with the one that was served longest ago.

use std::collections::HashMap;

use pgmq_notify::{Message, QueueName};
use tasker_shared::store::claims::Part;

/// The bands in the order in which most looks read them.
const BANDS: [i16; 3] = [1, 0, -1];

/// What is remembered from look to look.
#[derive(Debug)]
pub(crate) struct Turns {
    aging_ms: u64,
    looks: u64,
    /// The last look left tickets behind, or may have.
    left_some: bool,
    /// For each queue the last look that claimed from it, counted from 1, and how much: who got more comes later.
    served: HashMap<QueueName, (u64, usize)>,
}

impl Turns {
    pub(crate) fn new(aging_ms: u64) -> Self {
        Self { aging_ms, looks: 0, left_some: false, served: HashMap::new() }
    }

    /// The parts of the next look. Every fourth look begins with normal priority and every sixteenth with low, so that a
    /// busy band holds no other up for ever. Every eighth minds the age as well: a ticket that has waited for
    /// `worker.aging_ms` stands beside those one band higher, and after twice that beside those two bands higher. Where
    /// the last look has found less than it wanted, nothing waits, and asking for the age would be for nothing.
    pub(crate) fn next(&mut self, queues: &[(QueueName, i16)]) -> Vec<Part> {
        let bands = match self.looks % 16 {
            15 => [-1, 1, 0],
            3 | 7 | 11 => [0, 1, -1],
            _ => BANDS,
        };
        let minds_age = self.looks % 8 == 6 && self.left_some;
        self.looks += 1;
        let mut parts = Vec::with_capacity(queues.len());
        for (group, band) in (0..).zip(bands) {
            let begin = parts.len();
            for (queue, of) in queues {
                let up = u64::try_from(band - of).ok().filter(|up| *up == 0 || minds_age);
                let part = |up| Part { queue: queue.clone(), group, waited_ms: self.aging_ms.saturating_mul(up) };
                parts.extend(up.map(part));
            }
            parts[begin..].sort_by_key(|part| self.served.get(&part.queue).copied());
        }
        parts
    }

    /// Remembers what the look claimed that wanted `qty`.
    pub(crate) fn claimed(&mut self, messages: &[Message], qty: usize) {
        self.left_some = messages.len() >= qty;
        for message in messages {
            let served = self.served.entry(message.queue.clone()).or_default();
            *served = (self.looks, if served.0 == self.looks { served.1 + 1 } else { 1 });
        }
    }

    /// Forgets the queues that there are no more.
    pub(crate) fn keep(&mut self, queues: &[(QueueName, i16)]) {
        self.served.retain(|served, _| queues.iter().any(|(queue, _)| queue == served));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn queues(names: &[(&str, i16)]) -> Vec<(QueueName, i16)> {
        names.iter().map(|(name, band)| (QueueName::new(*name).unwrap(), *band)).collect()
    }

    /// `name` or `name>milliseconds`, a bar between groups.
    fn told(parts: &[Part]) -> String {
        let groups = parts.chunk_by(|one, next| one.group == next.group);
        let part = |part: &Part| match part.waited_ms {
            0 => part.queue.to_string(),
            ms => format!("{}>{ms}", part.queue),
        };
        groups.map(|group| group.iter().map(part).collect::<Vec<_>>().join(" ")).collect::<Vec<_>>().join(" | ")
    }

    fn message(queue: &str) -> Message {
        let at = chrono::DateTime::UNIX_EPOCH;
        let queue = QueueName::new(queue).unwrap();
        Message { queue, msg_id: 1, read_ct: 1, enqueued_at: at, vt: at, body: String::new() }
    }

    #[test]
    fn bands_are_read_by_weight_and_every_eighth_look_minds_the_age_while_tickets_are_left() {
        let queues = queues(&[("high", 1), ("normal", 0), ("low", -1)]);
        let sixteen = |wanted: usize| -> Vec<String> {
            let mut turns = Turns::new(1_000);
            let look = |_| {
                let parts = turns.next(&queues);
                turns.claimed(&[], wanted);
                told(&parts)
            };
            (0..16).map(look).collect()
        };
        let aged = "high normal>1000 low>2000 | normal low>1000 | low";
        let (plain, normal, low) = ("high | normal | low", "normal | high | low", "low | high | normal");
        let half = [plain, plain, plain, normal, plain, plain, aged, normal];
        assert_eq!(sixteen(0), [&half[..], &half[..7], &[low]].concat());
        assert_eq!(sixteen(1).iter().filter(|look| *look == aged).count(), 0);
        assert_eq!(Turns::new(1).next(&[]), []);
    }

    #[test]
    fn the_queue_that_was_served_longest_ago_and_least_comes_first() {
        let queues = queues(&[("a", 0), ("b", 0), ("c", 0)]);
        let mut turns = Turns::new(1_000);
        assert_eq!(told(&turns.next(&queues)), "a b c");
        turns.claimed(&[message("a"), message("a"), message("b")], 3);
        assert_eq!(told(&turns.next(&queues)), "c b a", "b got less than a");
        turns.claimed(&[message("b")], 1);
        turns.next(&queues);
        assert_eq!(told(&turns.next(&queues)), "c a b");
        turns.keep(&queues[..1]);
        assert_eq!(turns.served.len(), 1);
    }
}
