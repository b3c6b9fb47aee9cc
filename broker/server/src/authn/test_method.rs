//! The method `test`: for tests of clients and of this broker, never for anything that is to be kept from anybody.

use raftmq_mqtt::ReasonCode;

use super::{Exchange, Method, Step};

/// Sends a challenge and takes who sends it back.
pub(crate) struct TestMethod;

impl Method for TestMethod {
    fn name(&self) -> &str {
        "test"
    }

    fn begin(&self, _client_id: &str, random: [u8; 16]) -> Box<dyn Exchange> {
        Box::new(Challenge { bytes: random, sent: false })
    }
}

struct Challenge {
    bytes: [u8; 16],
    sent: bool,
}

impl Exchange for Challenge {
    fn step(&mut self, data: &[u8]) -> Step {
        if !std::mem::replace(&mut self.sent, true) {
            return Step::Continue(self.bytes.to_vec());
        }
        if data == self.bytes { Step::Success(Vec::new()) } else { Step::Refused(ReasonCode::NotAuthorized) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_sends_the_challenge_back_is_taken() {
        for (answer, expected) in [
            (&[7; 16][..], Step::Success(Vec::new())),
            (&[8; 16], Step::Refused(ReasonCode::NotAuthorized)),
            (b"", Step::Refused(ReasonCode::NotAuthorized)),
        ] {
            let mut exchange = TestMethod.begin("c", [7; 16]);
            assert_eq!(exchange.step(b"whatever"), Step::Continue(vec![7; 16]));
            assert_eq!(exchange.step(answer), expected);
        }
    }
}
