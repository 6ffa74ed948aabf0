//! The end of a gateway: it accepts nothing any more, and its connections end.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::ControlTask;
use crate::engine::Cut;

/// How long the process waits for connections to end once they are cut.
const CUT: Duration = Duration::from_secs(1);

impl ControlTask {
    /// Stops accepting. Ends when the last connection has ended, or the time to drain is over.
    pub(super) async fn stop(mut self) {
        let handed_over = self.shared.handed_over.load(Ordering::Acquire);
        if !handed_over {
            tokio::join!(self.bgp.withdraw(), self.kernel_routes.withdraw());
        }
        tracing::info!("no longer accepting, connections drain");
        self.shared.draining.cancel();
        if !handed_over {
            self.programmer.close().await;
        }
        self.programmer.drain();
        self.shared.connections.close();
        let is_over = tokio::select! {
            () = self.shared.connections.wait() => false,
            () = tokio::time::sleep(self.settings.drain_timeout) => {
                tracing::warn!("time to drain is over, connections are cut");
                true
            }
            () = self.cut.cancelled() => true,
        };
        if is_over {
            let draining = self.draining.into_ports();
            let serving = self
                .services
                .into_values()
                .flat_map(|served| served.ports.to_vec())
                .map(|(_, port)| port);
            for port in draining.chain(serving) {
                port.cut.cancel();
            }
            self.programmer.cut(Cut::All);
            let _ = tokio::time::timeout(CUT, self.shared.connections.wait()).await;
        }
        self.bgp.end().await;
        self.programmer.end(handed_over).await;
        if !handed_over {
            self.transparent.end().await;
        }
        if let Some(fleet) = self.fleet {
            fleet.end().await;
        }
    }
}
