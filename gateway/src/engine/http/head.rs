//! Reads the heads of requests.

use fairway_gateway_core::http1::{
    ClientScheme, EndpointHop, HeadProgress, HeadScan, OwnAnswer, RequestHead, RequestOrigin,
};

use super::connection::{HttpConnection, HttpStage};
use super::environment::{HttpEnvironment, HttpNext};
use super::exchange::Exchange;
use super::io::{self, ReadResult};
use super::timer::HttpTimer;
use crate::engine::dial::Dial;

/// What has come of a head.
enum HeadStep {
    /// More bytes have to come.
    Incomplete,
    /// It is whole, and its request is the connection's stage now.
    Begun,
    /// The client speaks h2.
    Http2,
    Refused(OwnAnswer),
}

impl HttpConnection {
    /// Reads as much of a head as has come, and begins with its request.
    pub(super) fn read_head(&mut self, environment: &mut HttpEnvironment<'_>) -> HttpNext {
        let buffer = std::mem::take(&mut environment.base.tools.buffer);
        let next = self.read_head_into(buffer, environment);
        environment.base.tools.buffer = buffer;
        next
    }

    fn read_head_into(
        &mut self,
        buffer: &mut [u8],
        environment: &mut HttpEnvironment<'_>,
    ) -> HttpNext {
        let had_begun = self.scan.has_begun();
        if !self.input.is_empty() && !had_begun {
            // A request that was sent after another one may be there as a whole.
            let input = std::mem::take(&mut self.input);
            match self.take_head(&input, environment) {
                HeadStep::Incomplete => self.input = input,
                step => return self.follow(step, &input, environment),
            }
        }
        let read = match io::read(&mut self.client, buffer) {
            ReadResult::Bytes(read) => read,
            ReadResult::Nothing => return self.wait_for_head(had_begun, environment),
            // A client that ends within a head waits for nothing.
            ReadResult::End | ReadResult::Failed(_) => {
                self.has_failed |= self.scan.has_begun();
                return HttpNext::Over;
            }
        };
        self.port.counters.received.add(read as u64);
        let bytes = buffer.get(..read).unwrap_or_default();
        if self.input.is_empty() {
            let step = self.take_head(bytes, environment);
            if matches!(step, HeadStep::Incomplete) {
                self.input = bytes.to_vec();
                return self.wait_for_head(had_begun, environment);
            }
            return self.follow(step, bytes, environment);
        }
        let mut input = std::mem::take(&mut self.input);
        input.extend_from_slice(bytes);
        match self.take_head(&input, environment) {
            HeadStep::Incomplete => {
                self.input = input;
                self.wait_for_head(had_begun, environment)
            }
            step => self.follow(step, &input, environment),
        }
    }

    /// The rest of a head has to come, or the beginning of one.
    fn wait_for_head(
        &mut self,
        had_begun: bool,
        environment: &mut HttpEnvironment<'_>,
    ) -> HttpNext {
        self.is_new &= self.input.is_empty();
        if self.client.readable {
            return HttpNext::More;
        }
        if let Err(error) = self.listen(environment) {
            return self.abort(&error, environment.pool);
        }
        match (self.scan.has_begun(), had_begun) {
            (true, false) => HttpNext::Wait(HttpTimer::Head),
            (false, _) if !self.is_new => self.wait_for_request(),
            (true, true) | (false, _) => HttpNext::Stay,
        }
    }

    /// Looks for a head at the beginning of what has come, and begins with its request.
    fn take_head(&mut self, bytes: &[u8], environment: &mut HttpEnvironment<'_>) -> HeadStep {
        let limits = environment.limits;
        let length = match self.scan.request(bytes, limits) {
            Ok(HeadProgress::Complete(length)) => length,
            Ok(HeadProgress::Incomplete) => return HeadStep::Incomplete,
            Ok(HeadProgress::Http2) => return HeadStep::Http2,
            Err(defect) => {
                self.log(&defect);
                return HeadStep::Refused(defect.answer());
            }
        };
        self.scan = HeadScan::default();
        self.is_new = false;
        let head = bytes.get(..length).unwrap_or_default();
        let head = match RequestHead::parse(head, limits, environment.table) {
            Ok(head) => head,
            Err(defect) => {
                self.log(&defect);
                return HeadStep::Refused(defect.answer());
            }
        };
        let route = self.port.route();
        let client = self.origin.ip();
        let dial = Dial::new(self.hops);
        let mut exchange = Exchange::new(*head.facts(), dial, environment.now);
        let version = route.options.proxy_protocol;
        exchange.closes = version.is_some() || route.options.transparent;
        if let Some(version) = version {
            let header = self.origin.header(version, self.listen);
            exchange.up.push(&header);
        }
        let hop = EndpointHop {
            origin: RequestOrigin {
                peer: client,
                is_trusted: route.options.trusts(client),
                scheme: ClientScheme::Http,
            },
            closes: exchange.closes && !exchange.facts.is_upgrade,
        };
        head.write(&hop, exchange.up.head());
        drop(route);
        self.input = bytes.get(length..).unwrap_or_default().to_vec();
        self.stage = HttpStage::Busy(Box::new(exchange));
        HeadStep::Begun
    }

    fn follow(
        &mut self,
        step: HeadStep,
        bytes: &[u8],
        environment: &mut HttpEnvironment<'_>,
    ) -> HttpNext {
        match step {
            HeadStep::Incomplete => HttpNext::Stay,
            HeadStep::Http2 => {
                self.input = bytes.to_vec();
                HttpNext::Hand
            }
            HeadStep::Refused(why) => self.answer(why, environment),
            HeadStep::Begun => match self.take_body_from_input(environment) {
                Ok(()) => self.dial(environment),
                Err(why) => self.answer(why, environment),
            },
        }
    }

    /// The rest of a head has not come in time.
    pub(super) fn miss_head(&mut self, environment: &mut HttpEnvironment<'_>) -> HttpNext {
        if self.is_new && !self.scan.has_begun() {
            // A client that has sent nothing gets no answer: browsers open connections in advance.
            return HttpNext::Over;
        }
        self.answer(OwnAnswer::RequestTimeout, environment)
    }
}
