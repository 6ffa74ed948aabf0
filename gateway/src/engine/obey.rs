//! What a worker does when it is told something, and goes on with later.

use super::Engine;
use super::ending::{Backlog, Closing, MOST, count_examined};
use super::listeners::Accepting;
use super::mailbox::{Cut, WorkerCommand};

impl Engine {
    /// Takes what the worker was told, and does some of it.
    pub(super) fn commands(&mut self) {
        self.ending.commands.extend(self.mailbox.take());
        while self.ending.budget > 0
            && let Some(command) = self.ending.commands.pop_front()
        {
            self.ending.budget -= 1;
            self.obey(command);
        }
    }

    /// Goes on with what could not be done at once.
    pub(super) fn go_on_ending(&mut self) {
        if !self.ending.commands.is_empty() {
            self.commands();
        }
        let mut budget = MOST;
        while budget > 0
            && let Some(closing) = self.ending.closing.pop_front()
        {
            self.go_on_closing(closing, &mut budget);
        }
        for _ in 0..MOST {
            let Some(number) = self.ending.cutting.pop_front() else {
                break;
            };
            self.cut_if_told(number);
        }
    }

    fn obey(&mut self, command: WorkerCommand) {
        match command {
            WorkerCommand::Listen(number, listening) => self.listeners.insert(number, *listening),
            WorkerCommand::Receive(number, receiving) => self.datagrams.listen(number, *receiving),
            WorkerCommand::Steer(steered) => self.listeners.steer(*steered),
            WorkerCommand::Unsteer(listen) => {
                let arrivals = self.listeners.arrivals();
                self.ending.unsteer(listen, arrivals);
            }
            WorkerCommand::Sweep(slot) => self.datagrams.sweep(&slot, &self.shared),
            WorkerCommand::Close(number) if self.datagrams.knows(number) => {
                self.datagrams.close(number, &self.shared)
            }
            WorkerCommand::Close(number) => self.ending.close(number),
            WorkerCommand::Cut(cut) => {
                let numbers = match cut {
                    Cut::Port(port) => self.connections.of_port(port),
                    Cut::Place(place) => self.connections.of_place(place),
                    Cut::All => self.connections.numbers().collect(),
                };
                self.ending.cutting.extend(numbers);
            }
            WorkerCommand::Drain => self.draining = true,
            WorkerCommand::Stop => self.stopped = true,
        }
    }

    /// Accepts some of what waits, and closes what has nothing left.
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
        self.ending.closing.extend(rest);
    }

    /// Accepts some of what waits at a socket; what is left then.
    fn accept_waiting(&mut self, waiting: Backlog, budget: &mut u32) -> Option<Backlog> {
        let Backlog { listener, left } = waiting;
        let slot = self.listeners.slot(listener)?;
        let most = left.min(*budget);
        let (accepted, end) = self.accept_at(listener, slot.as_ref(), most);
        *budget = budget.saturating_sub(accepted.max(1));
        let left = left.saturating_sub(accepted);
        // Where there is no leave for it, the kernel resets what waits.
        let more = accepted == most && end == Accepting::Enough && left > 0;
        more.then_some(Backlog { listener, left })
    }

    /// Ends a connection whose port, endpoint or place has had its time.
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
