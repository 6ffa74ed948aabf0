//! How a worker has its HTTP connections go on: their events, timers and ends.

use std::time::Instant;

use super::Engine;
use super::connection::TcpConnection;
use super::direction::Tools;
use super::http::{HttpConnection, HttpEnvironment, HttpNext, HttpTimer};
use super::next::Environment;
use super::pending::{PER_ROUND, count_examined};
use super::poll::EventFlags;
use super::{HttpParts, MOST_DUE};

impl Engine {
    /// Begins a connection of a client whose port is balanced by request.
    pub(super) fn begin_http(&mut self, connection: HttpConnection) {
        let owner = connection.owner();
        let number = self.http.connections.insert(connection, owner);
        let now = self.http.now;
        self.http
            .connections
            .enlist(number, HttpTimer::Head as u8, now);
        self.step_http(number, HttpConnection::begin);
    }

    /// Handles an event of a client's socket.
    pub(super) fn http_client_event(&mut self, number: u32, flags: EventFlags) {
        self.step_http(number, |connection, environment| {
            connection.client_event(flags, environment)
        });
    }

    /// Handles an event of a socket to an endpoint.
    pub(super) fn http_endpoint_event(&mut self, number: u32, flags: EventFlags) {
        if let Some(user) = self.http.pool.user(number, flags) {
            self.step_http(user, |connection, environment| {
                connection.endpoint_event(flags, environment)
            });
        }
    }

    /// Lets a connection go on, and puts it into the list of its timer.
    pub(super) fn step_http(
        &mut self,
        number: u32,
        act: impl FnOnce(&mut HttpConnection, &mut HttpEnvironment<'_>) -> HttpNext,
    ) {
        let HttpParts {
            connections,
            pool,
            table,
            limits,
            scratch,
            again,
            now,
            ..
        } = &mut self.http;
        let Some(connection) = connections.get(number) else {
            return;
        };
        let mut environment = HttpEnvironment {
            base: Environment {
                shared: &self.shared,
                poll: self.mailbox.poll(),
                source_fallback: &mut self.source_fallback,
                tools: Tools {
                    buffer: &mut self.buffer,
                    descriptors: &self.shared.descriptors,
                },
                number,
            },
            pool,
            table,
            limits,
            scratch,
            now: *now,
            draining: self.draining || self.shared.draining.is_cancelled(),
        };
        let next = act(connection, &mut environment);
        environment.scratch.clear();
        match next {
            HttpNext::Stay => {}
            HttpNext::Wait(timer) => connections.enlist(number, timer as u8, *now),
            HttpNext::More | HttpNext::WaitAndMore(_) => {
                if connection.queue() {
                    again.push(number);
                }
                if let HttpNext::WaitAndMore(timer) = next {
                    connections.enlist(number, timer as u8, *now);
                }
            }
            HttpNext::Upgrade => self.upgrade(number),
            HttpNext::Hand => self.hand_http(number),
            HttpNext::Over => self.end_http(number),
        }
    }

    /// Lets those go on that the last round left.
    pub(super) fn go_on_http(&mut self) {
        self.http.now = Instant::now();
        for number in std::mem::take(&mut self.http.again) {
            self.step_http(number, HttpConnection::more);
        }
    }

    /// Handles the timers that have run out.
    pub(super) fn expire_http(&mut self, now: Instant) {
        for timer in HttpTimer::ALL {
            if self.http.connections.filled() & 1 << timer as u8 == 0 {
                continue;
            }
            let after = timer.duration(&self.shared);
            for _ in 0..MOST_DUE {
                let Some(number) = self.http.connections.due(timer as u8, now, after) else {
                    break;
                };
                self.step_http(number, |connection, environment| {
                    connection.due(timer, environment)
                });
            }
        }
        let pooled = self.shared.http_times.pooled;
        self.http.pool.expire(now, pooled, MOST_DUE);
    }

    /// When the next timer runs out.
    pub(super) fn http_due(&mut self) -> Option<Instant> {
        let filled = self.http.connections.filled();
        let running = HttpTimer::ALL
            .into_iter()
            .filter(|timer| filled & 1 << *timer as u8 != 0);
        let due = running.filter_map(|timer| {
            let since = self.http.connections.since(timer as u8)?;
            Some(since + timer.duration(&self.shared))
        });
        let pooled = self.shared.http_times.pooled;
        let pool = self.http.pool.since().map(|since| since + pooled);
        due.chain(pool).min()
    }

    /// Does some of the work that earlier rounds have left.
    pub(super) fn do_pending_http(&mut self) {
        for _ in 0..PER_ROUND {
            let Some(number) = self.http.cutting.pop_front() else {
                break;
            };
            let Some(connection) = self.http.connections.get(number) else {
                continue;
            };
            count_examined();
            if connection.is_cut() {
                connection.cut();
                self.end_http(number);
            }
        }
        for _ in 0..PER_ROUND {
            let Some(number) = self.http.reviewing.pop_front() else {
                break;
            };
            self.step_http(number, HttpConnection::review);
        }
        for _ in 0..PER_ROUND {
            let Some(number) = self.http.finishing.pop_front() else {
                break;
            };
            self.step_http(number, |connection, _| connection.finish());
        }
    }

    /// A connection carries bytes as they are from here on.
    fn upgrade(&mut self, number: u32) {
        let Some(connection) = self.http.connections.remove(number) else {
            return;
        };
        match connection.into_upgraded(&mut self.http.pool) {
            Ok(connection) => {
                let owner = connection.owner();
                let number = self.connections.insert(connection, owner);
                self.step(number, TcpConnection::go_on_upgraded);
            }
            Err(connection) => connection.close(&mut self.http.pool),
        }
    }

    /// Hands a connection to the worker's tasks.
    fn hand_http(&mut self, number: u32) {
        let Some(connection) = self.http.connections.remove(number) else {
            return;
        };
        let open = self.shared.connections.token();
        let (socket, permit, task) = connection.into_task(open);
        self.mailbox.poll().remove(&socket);
        self.listeners.tasks.hand(socket, permit, task);
    }

    fn end_http(&mut self, number: u32) {
        if let Some(connection) = self.http.connections.remove(number) {
            connection.close(&mut self.http.pool);
        }
    }
}
