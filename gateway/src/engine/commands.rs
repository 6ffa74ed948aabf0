//! How a worker carries out commands, some in each round.

use super::Engine;
use super::connection::TcpConnection;
use super::listeners::Accepting;
use super::mailbox::{Cut, WorkerCommand};
use super::pending::{Backlog, Closing, PER_ROUND, count_examined};

impl Engine {
    /// Takes the commands out of the mailbox, and carries out some of them.
    pub(super) fn commands(&mut self) {
        self.pending.commands.extend(self.mailbox.take());
        while self.pending.budget > 0
            && let Some(command) = self.pending.commands.pop_front()
        {
            self.pending.budget -= 1;
            self.carry_out(command);
        }
    }

    /// Carries out all commands at once, however many there are.
    pub(super) fn carry_out_all(&mut self) {
        self.pending.budget = u32::MAX;
        self.commands();
        self.pending.budget = 0;
    }

    /// Does some of the work that earlier rounds have left.
    pub(super) fn do_pending(&mut self) {
        if !self.pending.commands.is_empty() {
            self.commands();
        }
        let mut budget = PER_ROUND;
        while budget > 0
            && let Some(closing) = self.pending.closing.pop_front()
        {
            self.go_on_closing(closing, &mut budget);
        }
        for _ in 0..PER_ROUND {
            let Some(number) = self.pending.cutting.pop_front() else {
                break;
            };
            self.cut_if_told(number);
        }
        for _ in 0..PER_ROUND {
            let Some(number) = self.pending.reviewing.pop_front() else {
                break;
            };
            self.step(number, TcpConnection::review);
        }
        self.datagrams.close_some(PER_ROUND);
    }

    fn carry_out(&mut self, command: WorkerCommand) {
        match command {
            WorkerCommand::Listen(number, listening) => self.listeners.insert(number, *listening),
            WorkerCommand::Receive(number, receiving) => self.datagrams.listen(number, *receiving),
            WorkerCommand::Steer(steered) => self.listeners.steer(*steered),
            WorkerCommand::Unsteer(listen) => {
                let arrivals = self.listeners.arrivals();
                self.pending.unsteer(listen, arrivals);
            }
            WorkerCommand::Sweep(slot) => self.datagrams.sweep(&slot, &self.shared),
            WorkerCommand::Close(number) if self.datagrams.knows(number) => {
                self.datagrams.close(number, &self.shared)
            }
            WorkerCommand::Close(number) => self.pending.close(number),
            WorkerCommand::Cut(cut) => {
                let numbers = match cut {
                    Cut::Port(port) => self.connections.of_port(port),
                    Cut::Slot(place) => self.connections.of_place(place),
                    Cut::All => self.connections.numbers().collect(),
                };
                let of_http = &mut self.http.connections;
                let http: Vec<u32> = match cut {
                    Cut::Port(port) => of_http.of_port(port),
                    Cut::Slot(place) => of_http.of_place(place),
                    Cut::All => of_http.numbers().collect(),
                };
                self.http.cutting.extend(http);
                if let Cut::Port(port) = cut {
                    self.http.pool.close_of_port(port);
                }
                self.pending.cutting.extend(numbers);
            }
            WorkerCommand::Review(port) => {
                let numbers = self.connections.of_port(port);
                self.pending.reviewing.extend(numbers);
                let http = self.http.connections.of_port(port);
                self.http.reviewing.extend(http);
            }
            WorkerCommand::HandOver(command) => self.hand_over(*command),
            WorkerCommand::Drain => {
                self.draining = true;
                let http = self.http.connections.numbers();
                self.http.finishing.extend(http);
                self.http.pool.close_idle();
            }
            WorkerCommand::Stop => self.stopped = true,
        }
    }

    /// Accepts some of the waiting connections, and closes the socket where none is left.
    fn go_on_closing(&mut self, closing: Closing, budget: &mut u32) {
        let rest = match closing {
            Closing::Listener(waiting) => match self.accept_waiting(waiting, budget) {
                None => {
                    self.listeners.remove(waiting.listener);
                    None
                }
                Some(waiting) => Some(Closing::Listener(waiting)),
            },
            Closing::Steered {
                places,
                mut arrivals,
                ..
            } => {
                while *budget > 0
                    && let Some(waiting) = arrivals.pop()
                {
                    arrivals.extend(self.accept_waiting(waiting, budget));
                }
                if arrivals.is_empty() {
                    self.listeners.unsteer(&places);
                    None
                } else {
                    Some(Closing::Steered {
                        places,
                        arrivals,
                        begun: true,
                    })
                }
            }
        };
        self.pending.closing.extend(rest);
    }

    /// Accepts some of the connections that wait at a socket. Returns what is left then.
    fn accept_waiting(&mut self, waiting: Backlog, budget: &mut u32) -> Option<Backlog> {
        let Backlog { listener, left } = waiting;
        let slot = self.listeners.slot(listener)?;
        let most = left.min(*budget);
        let (accepted, end) = self.accept_at(listener, slot.as_ref(), most);
        *budget = budget.saturating_sub(accepted.max(1));
        let left = left.saturating_sub(accepted);
        // Where the file descriptors are used up, the kernel resets the rest as the socket is closed.
        let more = accepted == most && end == Accepting::Enough && left > 0;
        more.then_some(Backlog { listener, left })
    }

    /// Resets a connection if the time to drain of its port, endpoint or listener is over.
    fn cut_if_told(&mut self, number: u32) {
        let Some(connection) = self.connections.get(number) else {
            return;
        };
        count_examined();
        if connection.is_cut() {
            connection.cut();
            drop(self.connections.remove(number));
        }
    }
}
