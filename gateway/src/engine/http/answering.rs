//! Reads an answer: its heads, its body and its trailers, as far as they have come.

use std::io::ErrorKind;

use fairway_gateway_core::http1::{
    AnswerHead, BodyNext, BodyScan, HeadProgress, HeadScan, OwnAnswer,
};

use super::connection::{HttpConnection, HttpStage};
use super::environment::HttpEnvironment;
use super::exchange::BegunAnswer;
use super::io::{self, ReadResult};
use super::step::CarryStep;

impl HttpConnection {
    /// Reads once from the endpoint, and writes to the client what follows from it. Whether anything has moved.
    pub(super) fn read_answer(
        &mut self,
        buffer: &mut [u8],
        environment: &mut HttpEnvironment<'_>,
    ) -> Result<bool, CarryStep> {
        let HttpStage::Busy(exchange) = &mut self.stage else {
            return Ok(false);
        };
        let Some(side) = exchange.endpoint() else {
            return Ok(false);
        };
        let read = match io::read(side, buffer) {
            ReadResult::Bytes(read) => read,
            ReadResult::Nothing => return Ok(false),
            ReadResult::End => return self.answer_ends(),
            ReadResult::Failed(error) => return Err(CarryStep::EndpointLost(error)),
        };
        exchange.times.endpoint_heard = environment.now;
        let partial = std::mem::take(&mut exchange.partial);
        if partial.is_empty() {
            self.take_answer(buffer.get_mut(..read).unwrap_or_default(), environment)?;
        } else {
            let mut bytes = partial;
            bytes.extend_from_slice(buffer.get(..read).unwrap_or_default());
            self.take_answer(&mut bytes, environment)?;
        }
        Ok(true)
    }

    /// The endpoint has ended its side.
    fn answer_ends(&mut self) -> Result<bool, CarryStep> {
        let HttpStage::Busy(exchange) = &mut self.stage else {
            return Ok(false);
        };
        if let Some(answer) = &mut exchange.answer
            && answer.body.ends_with_connection()
            && !answer.in_trailers
        {
            answer.has_ended = true;
            return Ok(true);
        }
        Err(CarryStep::EndpointLost(ErrorKind::UnexpectedEof.into()))
    }

    /// Takes what has come of the answer.
    fn take_answer(
        &mut self,
        bytes: &mut [u8],
        environment: &mut HttpEnvironment<'_>,
    ) -> Result<(), CarryStep> {
        let mut from = 0;
        loop {
            let HttpStage::Busy(exchange) = &mut self.stage else {
                return Ok(());
            };
            if exchange.answer.is_some() {
                break;
            }
            let rest = bytes.get(from..).unwrap_or_default();
            if rest.is_empty() {
                // Only interim answers have come.
                return self.write_to_client(&[], environment);
            }
            let malformed = || CarryStep::Own(OwnAnswer::UpstreamProtocol);
            let limits = environment.limits;
            let progress = exchange.scan.answer(rest, limits);
            let length = match progress.map_err(|_| malformed())? {
                HeadProgress::Complete(length) => length,
                HeadProgress::Incomplete | HeadProgress::Http2 => {
                    exchange.partial = rest.to_vec();
                    return self.write_to_client(&[], environment);
                }
            };
            exchange.scan = HeadScan::default();
            let head = rest.get(..length).unwrap_or_default();
            let head = AnswerHead::parse(head, limits, &exchange.facts, environment.table);
            let head = head.map_err(|_| malformed())?;
            from += length;
            let facts = *head.facts();
            let may_keep = exchange.has_come() && !environment.draining;
            let plan = facts.plan(&exchange.facts, may_keep);
            if plan.passes {
                head.write(&plan, environment.scratch);
                exchange.status = Some(facts.status);
            }
            if facts.is_interim() {
                continue;
            }
            if let Some(active) = &exchange.active {
                // An answer on a kept connection counts, too: its endpoint's dials may have failed since.
                let now = environment.base.shared.clock.at(environment.now);
                self.port.answered(active.state(), now);
            }
            if facts.is_upgrade() {
                exchange.down = std::mem::take(environment.scratch);
                let rest = bytes.get(from..).unwrap_or_default();
                exchange.down.extend_from_slice(rest);
                return Err(CarryStep::Upgrade);
            }
            exchange.answer = Some(BegunAnswer {
                facts,
                plan,
                body: BodyScan::new(facts.body),
                in_trailers: false,
                has_ended: false,
                has_excess: false,
            });
            if exchange.up.is_sent() {
                exchange.up.forget();
            }
        }
        self.take_answer_body(bytes.get_mut(from..).unwrap_or_default(), environment)
    }

    /// Takes what has come of the answer's body.
    fn take_answer_body(
        &mut self,
        bytes: &mut [u8],
        environment: &mut HttpEnvironment<'_>,
    ) -> Result<(), CarryStep> {
        let HttpStage::Busy(exchange) = &mut self.stage else {
            return Ok(());
        };
        let Some(answer) = &mut exchange.answer else {
            return Ok(());
        };
        if answer.in_trailers {
            return self.take_answer_trailers(bytes, environment);
        }
        let malformed = |_| CarryStep::EndpointLost(ErrorKind::InvalidData.into());
        let (kept, consumed, next) = match answer.plan.decodes {
            true => {
                let decoded = answer.body.decode(bytes).map_err(malformed)?;
                (decoded.kept, decoded.consumed, decoded.next)
            }
            false => {
                let passed = answer.body.pass(bytes).map_err(malformed)?;
                (passed.length, passed.length, passed.next)
            }
        };
        answer.in_trailers = next == BodyNext::Trailers;
        let in_trailers = answer.in_trailers;
        answer.has_excess = next == BodyNext::End && consumed < bytes.len();
        self.write_to_client(bytes.get(..kept).unwrap_or_default(), environment)?;
        if in_trailers {
            let rest = bytes.get(consumed..).unwrap_or_default();
            return self.take_answer_trailers(rest, environment);
        }
        Ok(())
    }

    /// Takes the answer's trailers, once they are whole.
    fn take_answer_trailers(
        &mut self,
        bytes: &[u8],
        environment: &mut HttpEnvironment<'_>,
    ) -> Result<(), CarryStep> {
        let HttpStage::Busy(exchange) = &mut self.stage else {
            return Ok(());
        };
        let Some(answer) = &mut exchange.answer else {
            return Ok(());
        };
        let passes = exchange.facts.takes_trailers && !answer.plan.decodes;
        let mut out = Vec::new();
        let read = answer
            .body
            .trailers(bytes, passes, environment.table, &mut out);
        let malformed = |_| CarryStep::EndpointLost(ErrorKind::InvalidData.into());
        match read.map_err(malformed)? {
            None => exchange.partial = bytes.to_vec(),
            Some(consumed) => {
                answer.in_trailers = false;
                answer.has_excess = consumed < bytes.len();
                if answer.plan.decodes {
                    // There is no place for an end in the client's stream but its own end.
                    out.clear();
                }
                if !exchange.down.is_empty() {
                    exchange.down.extend_from_slice(&out);
                    return Ok(());
                }
                return self.write_to_client(&out, environment);
            }
        }
        Ok(())
    }
}
