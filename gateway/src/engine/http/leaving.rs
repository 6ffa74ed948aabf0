//! A connection that is carried otherwise from here on: as bytes, or by the worker's tasks.

use std::os::fd::OwnedFd;

use tokio_util::task::task_tracker::TaskTrackerToken;

use super::connection::{HttpConnection, HttpStage};
use super::exchange::EndpointLink;
use super::pool::EndpointPool;
use crate::descriptors::Permit;
use crate::engine::connection::{TcpConnection, UpgradedConnection};
use crate::tasks::TaskKind;

impl HttpConnection {
    /// The connection of bytes that an upgrade has made of it; else itself.
    pub(in crate::engine) fn into_upgraded(
        mut self,
        pool: &mut EndpointPool,
    ) -> Result<TcpConnection, Box<Self>> {
        self.note_end(None);
        let HttpStage::Busy(exchange) = &mut self.stage else {
            return Err(Box::new(self));
        };
        let link = std::mem::replace(&mut exchange.link, EndpointLink::None);
        let EndpointLink::Connected(connection) = link else {
            exchange.link = link;
            return Err(Box::new(self));
        };
        pool.release(connection.number);
        let mut up = exchange.up.waiting().to_vec();
        up.append(&mut self.input);
        Ok(TcpConnection::upgraded(UpgradedConnection {
            client: self.client,
            endpoint: connection.side,
            up,
            down: std::mem::take(&mut exchange.down),
            origin: self.origin,
            listen: self.listen,
            active: exchange.active.take(),
            transparent: exchange.transparent.take(),
            port: self.port,
            permit: self.permit,
        }))
    }

    /// The connection for the tasks of the worker, with the bytes that were read of it.
    pub(in crate::engine) fn into_task(
        self,
        open: TaskTrackerToken,
    ) -> (OwnedFd, Permit, TaskKind) {
        let task = TaskKind::Http {
            origin: self.origin,
            listen: self.listen,
            hops: self.hops,
            port: self.port,
            first: self.input,
            open,
        };
        (self.client.socket, self.permit, task)
    }
}
