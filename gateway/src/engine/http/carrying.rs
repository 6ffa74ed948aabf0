//! Moves the bytes of a request to its endpoint, and those of the answer to the client, in bounded memory.
//!
//! The answer goes first: a write to an endpoint that was reset would find the error before its last bytes are read.
//! Each direction reads only when all that it has read before is written, so a slow receiver slows the sender down, and
//! costs at most the memory of one read.

use std::io::ErrorKind;

use fairway_gateway_core::http1::{AfterAnswer, BodyNext, OwnAnswer};

use super::connection::{HttpConnection, HttpStage};
use super::environment::HttpEnvironment;
use super::exchange::{EndpointLink, Exchange};
use super::io::{self as sides, ReadResult};
use super::step::CarryStep;

impl HttpConnection {
    /// One step in each direction.
    pub(super) fn carry_step(&mut self, environment: &mut HttpEnvironment<'_>) -> CarryStep {
        let HttpStage::Busy(exchange) = &mut self.stage else {
            return CarryStep::Waits;
        };
        let is_gone = self.client.failed || (self.client.ended && exchange.answer.is_none());
        if is_gone && exchange.has_come() && !exchange.is_abandoned {
            // Nobody waits for the answer. (A client that has only ended its side may, but few do, and the endpoint of one
            // that has closed need not work on; nginx does the same.)
            return CarryStep::ClientLost(ErrorKind::ConnectionAborted.into());
        }
        if !matches!(exchange.link, EndpointLink::Connected(_)) {
            return CarryStep::Waits;
        }
        let mut has_moved = false;
        if !exchange.is_abandoned {
            match self.carry_answer(environment) {
                Ok(moved) => has_moved = moved,
                Err(step) => return step,
            }
        }
        match self.carry_request(environment) {
            Ok(moved) => has_moved |= moved,
            Err(step) => return step,
        }
        match has_moved {
            true => CarryStep::Again,
            false => CarryStep::Waits,
        }
    }

    /// Writes what waits for the client, and reads on. Whether anything has moved.
    fn carry_answer(&mut self, environment: &mut HttpEnvironment<'_>) -> Result<bool, CarryStep> {
        if !self.write_down(environment)? {
            return Ok(false);
        }
        let HttpStage::Busy(exchange) = &mut self.stage else {
            return Ok(false);
        };
        if exchange.is_answered() {
            return Err(CarryStep::Answered(after(exchange)));
        }
        let buffer = std::mem::take(&mut environment.base.tools.buffer);
        let moved = self.read_answer(buffer, environment);
        environment.base.tools.buffer = buffer;
        let moved = moved?;
        let HttpStage::Busy(exchange) = &mut self.stage else {
            return Ok(moved);
        };
        if exchange.is_answered() && exchange.down.is_empty() {
            return Err(CarryStep::Answered(after(exchange)));
        }
        Ok(moved)
    }

    /// Writes what waits for the client. Returns whether nothing is left.
    fn write_down(&mut self, environment: &HttpEnvironment<'_>) -> Result<bool, CarryStep> {
        let HttpStage::Busy(exchange) = &mut self.stage else {
            return Ok(false);
        };
        if exchange.down.is_empty() {
            return Ok(true);
        }
        let written = sides::write(&mut self.client, &exchange.down, &[]);
        let written = written.map_err(CarryStep::ClientLost)?;
        self.port.counters.transmitted.add(written as u64);
        if written > 0 {
            exchange.times.client_took = environment.now;
        }
        if written == exchange.down.len() {
            exchange.down = Vec::new();
        } else {
            exchange.down.drain(..written);
        }
        Ok(exchange.down.is_empty())
    }

    /// Writes what waits for the endpoint, and reads on. Whether anything has moved.
    fn carry_request(&mut self, environment: &mut HttpEnvironment<'_>) -> Result<bool, CarryStep> {
        let HttpStage::Busy(exchange) = &mut self.stage else {
            return Ok(false);
        };
        let was_sent = exchange.up.is_sent();
        if !write_up(exchange, environment) {
            return Ok(false);
        }
        if exchange.is_abandoned && (exchange.is_read || exchange.is_refused) {
            return Err(CarryStep::Abandoned);
        }
        if exchange.is_refused || exchange.has_come() {
            return Ok(!was_sent);
        }
        let buffer = std::mem::take(&mut environment.base.tools.buffer);
        let moved = self.read_body(buffer, environment);
        environment.base.tools.buffer = buffer;
        moved.map(|moved| moved || !was_sent)
    }

    /// Reads a part of the request's body.
    fn read_body(
        &mut self,
        buffer: &mut [u8],
        environment: &mut HttpEnvironment<'_>,
    ) -> Result<bool, CarryStep> {
        let HttpStage::Busy(exchange) = &mut self.stage else {
            return Ok(false);
        };
        let read = match sides::read(&mut self.client, buffer) {
            ReadResult::Bytes(read) => read,
            ReadResult::Nothing => return Ok(false),
            ReadResult::End => return Err(CarryStep::ClientLost(ErrorKind::UnexpectedEof.into())),
            ReadResult::Failed(error) => return Err(CarryStep::ClientLost(error)),
        };
        self.port.counters.received.add(read as u64);
        exchange.times.client_heard = environment.now;
        let bytes = buffer.get(..read).unwrap_or_default();
        let input = &mut self.input;
        take_body(exchange, input, bytes, environment).map_err(CarryStep::Own)?;
        write_up(exchange, environment);
        Ok(true)
    }

    /// Takes what has come of the request's body together with its head.
    pub(super) fn take_body_from_input(
        &mut self,
        environment: &mut HttpEnvironment<'_>,
    ) -> Result<(), OwnAnswer> {
        let HttpStage::Busy(exchange) = &mut self.stage else {
            return Ok(());
        };
        if exchange.has_come() || self.input.is_empty() {
            return Ok(());
        }
        let bytes = std::mem::take(&mut self.input);
        take_body(exchange, &mut self.input, &bytes, environment)
    }

    /// Writes bytes to the client: those of the scratch buffer, and then these. What it does not take waits.
    pub(super) fn write_to_client(
        &mut self,
        bytes: &[u8],
        environment: &mut HttpEnvironment<'_>,
    ) -> Result<(), CarryStep> {
        let HttpStage::Busy(exchange) = &mut self.stage else {
            return Ok(());
        };
        let scratch = &mut *environment.scratch;
        let all = scratch.len() + bytes.len();
        let written = sides::write(&mut self.client, scratch, bytes);
        let written = written.map_err(CarryStep::ClientLost)?;
        self.port.counters.transmitted.add(written as u64);
        if written < all {
            exchange.down = sides::rest(scratch, bytes, written);
        }
        if written > 0 {
            exchange.times.client_took = environment.now;
        }
        scratch.clear();
        Ok(())
    }
}

/// What becomes of the client's connection after the answer.
fn after(exchange: &Exchange) -> AfterAnswer {
    match &exchange.answer {
        Some(answer) if exchange.has_come() => answer.plan.after,
        _ => AfterAnswer::Close,
    }
}

/// Takes a part of a request's body. What follows the body is left in `input`.
fn take_body(
    exchange: &mut Exchange,
    input: &mut Vec<u8>,
    bytes: &[u8],
    environment: &mut HttpEnvironment<'_>,
) -> Result<(), OwnAnswer> {
    if exchange.in_trailers {
        input.extend_from_slice(bytes);
        return take_trailers(exchange, input, environment);
    }
    let passed = exchange.body.pass(bytes);
    let passed = passed.map_err(|_| OwnAnswer::BadRequest)?;
    let data = bytes.get(..passed.length).unwrap_or_default();
    let rest = bytes.get(passed.length..).unwrap_or_default();
    send_up(exchange, data, environment);
    input.extend_from_slice(rest);
    if passed.next == BodyNext::Trailers {
        exchange.in_trailers = true;
        return take_trailers(exchange, input, environment);
    }
    Ok(())
}

/// Takes the trailers of a request, once they are whole.
fn take_trailers(
    exchange: &mut Exchange,
    input: &mut Vec<u8>,
    environment: &mut HttpEnvironment<'_>,
) -> Result<(), OwnAnswer> {
    let mut out = Vec::new();
    let read = exchange
        .body
        .trailers(input, true, environment.table, &mut out);
    if let Some(consumed) = read.map_err(|_| OwnAnswer::BadRequest)? {
        exchange.in_trailers = false;
        input.drain(..consumed);
        send_up(exchange, &out, environment);
    }
    Ok(())
}

/// Sends bytes to the endpoint, or has them wait, where nothing waits that can't wait longer.
fn send_up(exchange: &mut Exchange, bytes: &[u8], environment: &HttpEnvironment<'_>) {
    if bytes.is_empty() || exchange.is_refused {
        return;
    }
    let is_wanted = exchange.answer.is_none() && exchange.up.keeps(bytes.len());
    if is_wanted || !exchange.up.is_sent() {
        return exchange.up.push(bytes);
    }
    // It is too much to be kept for another try.
    exchange.up.forget();
    let EndpointLink::Connected(connection) = &mut exchange.link else {
        return exchange.up.push(bytes);
    };
    sides::hurry(&mut connection.side);
    match sides::write(&mut connection.side, bytes, &[]) {
        Ok(written) => {
            if written > 0 {
                exchange.times.endpoint_took = environment.now;
            }
            exchange.up.push(bytes.get(written..).unwrap_or_default());
        }
        // What it has said before may still be read.
        Err(_) => exchange.is_refused = true,
    }
}

/// Writes what waits for the endpoint. Returns whether nothing is left.
fn write_up(exchange: &mut Exchange, environment: &HttpEnvironment<'_>) -> bool {
    let EndpointLink::Connected(connection) = &mut exchange.link else {
        return false;
    };
    if exchange.up.is_sent() {
        return true;
    }
    if exchange.is_refused {
        return exchange.is_abandoned;
    }
    if exchange.up.has_begun() {
        sides::hurry(&mut connection.side);
    }
    match sides::write(&mut connection.side, exchange.up.waiting(), &[]) {
        Ok(written) => {
            if written > 0 {
                exchange.times.endpoint_took = environment.now;
            }
            exchange.up.sent(written);
        }
        Err(_) => {
            exchange.is_refused = true;
            // The next read finds why.
            connection.side.readable = true;
            return exchange.is_abandoned;
        }
    }
    exchange.up.is_sent()
}
