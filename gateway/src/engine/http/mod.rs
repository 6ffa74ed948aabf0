//! HTTP/1 on the engine: the connections of clients whose port is balanced by request, and those to HTTP/1.1 endpoints.
//!
//! What is decided is decided by [`fairway_gateway_core::http1`], which sees bytes and no sockets: which heads and bodies
//! are taken, what goes to the other side, whether a request may be sent again. Here bytes are read and written.
//!
//! A connection of a client is a number and a state, as one of opaque bytes is, and so is each connection to an endpoint.
//! Both stay registered with epoll, edge-triggered, so a request on kept connections is a read and a write on either side
//! and no other system call. All connections of a worker read into one buffer; a connection holds only what the other
//! side does not take at once, and nothing at all between two requests.
//!
//! Reading order:
//! 1. [`connection`]: the state machine of a client's connection; `environment`: what it works with; `timer`;
//! 2. `head`: reads requests; `exchange`: one request and its answer; `dialling`: finds a connection to an endpoint;
//!    [`pool`]: those that wait for a request;
//! 3. `carrying` and `answering`: move the bytes; `io`: reads and writes of a socket; `step`: what comes of it;
//! 4. `losing`: who breaks off, what takes too long, and our own answers; `ending` and
//!    `end_state`: the last bytes are delivered;
//! 5. `leaving`: upgrades go on as connections of bytes, clients of h2 as tasks of the worker.

mod answering;
mod carrying;
mod connection;
mod dialling;
mod end_state;
mod ending;
mod environment;
mod exchange;
mod head;
mod io;
mod leaving;
mod losing;
mod pool;
mod step;
mod timer;

pub(super) use self::connection::HttpConnection;
pub(super) use self::environment::{HttpEnvironment, HttpNext};
pub(super) use self::pool::EndpointPool;
pub(super) use self::timer::HttpTimer;
