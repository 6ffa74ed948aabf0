//! Node ports: which number belongs to which Service.

use std::collections::{BTreeSet, HashMap};

use fairway_config::names::ServiceName;
use fairway_config::service::PortKey;

use crate::queue::ServiceSlot;
use crate::settings::NodePortRange;

/// What a Service uses a number for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// The node port of one of its ports.
    Port(PortKey),
    /// Its `healthCheckNodePort`.
    HealthCheck,
    /// Nothing: it was released, and the store does not show that yet.
    Leaving,
}

/// Why a Service can't have a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NumberRefusal {
    /// It is not in the range.
    OutOfRange(NodePortRange),
    /// Another Service holds it.
    HeldBy(ServiceName),
    /// Another port of the same Service, or its health check, holds it.
    UsedBySelf,
    /// No number is left.
    RangeFull(NodePortRange),
    /// The number that is asked for can't be read.
    Unreadable,
}

/// The Service that has a number, and what it uses it for.
#[derive(Debug)]
struct NodePortOwner {
    slot: ServiceSlot,
    name: ServiceName,
    uses: Vec<Use>,
}

/// All numbers, taken and free.
#[derive(Debug)]
pub(crate) struct NodePorts {
    range: NodePortRange,
    static_band: BTreeSet<u16>,
    dynamic_band: BTreeSet<u16>,
    owners: HashMap<u16, NodePortOwner>,
    /// Numbers that were released, and not taken again, since the last call of `take_freed`.
    freed: BTreeSet<u16>,
}

impl NodePorts {
    /// A range with every number free.
    pub(crate) fn new(range: NodePortRange) -> Self {
        let (static_band, dynamic_band) =
            (range.first()..=range.last()).partition(|&number| range.is_static(number));
        Self {
            range,
            static_band,
            dynamic_band,
            owners: HashMap::new(),
            freed: BTreeSet::new(),
        }
    }

    /// How many numbers are free in the static band and in the dynamic one, and how many are taken.
    pub(crate) fn counts(&self) -> (usize, usize, usize) {
        (
            self.static_band.len(),
            self.dynamic_band.len(),
            self.owners.len(),
        )
    }

    /// Whether a number is free.
    pub(crate) fn has_free(&self) -> bool {
        self.free() > 0
    }

    /// How many numbers are free.
    pub(crate) fn free(&self) -> usize {
        self.dynamic_band.len() + self.static_band.len()
    }

    /// Whether a number has become free since the last call.
    pub(crate) fn take_freed(&mut self) -> bool {
        !std::mem::take(&mut self.freed).is_empty()
    }

    /// Who holds `number`.
    pub(crate) fn owner(&self, number: u16) -> Option<ServiceSlot> {
        self.owners.get(&number).map(|owner| owner.slot)
    }

    /// Whether a Service may have `number` for this use. A number that the Service holds already
    /// need not be in the range: a smaller range renumbers no Service.
    pub(crate) fn may_take(
        &self,
        number: u16,
        slot: ServiceSlot,
        wanted: Use,
        held: bool,
    ) -> Result<(), NumberRefusal> {
        if let Some(owner) = self.owners.get(&number) {
            if owner.slot != slot {
                return Err(NumberRefusal::HeldBy(owner.name.clone()));
            }
            let clashes = owner.uses.iter().any(|used| match (used, wanted) {
                (Use::Port(a), Use::Port(b)) => a.protocol == b.protocol,
                _ => true,
            });
            if clashes {
                return Err(NumberRefusal::UsedBySelf);
            }
        }
        if held || self.range.contains(number) {
            Ok(())
        } else {
            Err(NumberRefusal::OutOfRange(self.range))
        }
    }

    /// Notes that a Service has `number`.
    pub(crate) fn take(&mut self, number: u16, slot: ServiceSlot, name: &ServiceName, wanted: Use) {
        self.static_band.remove(&number);
        self.dynamic_band.remove(&number);
        self.freed.remove(&number);
        let owner = self.owners.entry(number).or_insert_with(|| NodePortOwner {
            slot,
            name: name.clone(),
            uses: Vec::new(),
        });
        if owner.slot == slot {
            owner.uses.push(wanted);
        }
    }

    /// Notes that a Service does not use `number` any more, for anything.
    pub(crate) fn release(&mut self, number: u16, slot: ServiceSlot) {
        if self.owner(number) != Some(slot) {
            return;
        }
        self.owners.remove(&number);
        if !self.range.contains(number) {
            return;
        }
        self.freed.insert(number);
        if self.range.is_static(number) {
            self.static_band.insert(number);
        } else {
            self.dynamic_band.insert(number);
        }
    }

    /// The number for a port that asks for none: the lowest free one of the dynamic band, else of
    /// the static one.
    pub(crate) fn lowest(&self) -> Result<u16, NumberRefusal> {
        self.dynamic_band
            .first()
            .or_else(|| self.static_band.first())
            .copied()
            .ok_or(NumberRefusal::RangeFull(self.range))
    }
}

impl NodePorts {
    /// As [`NodePorts::lowest`], but none of these.
    pub(crate) fn lowest_but(&self, refused: &BTreeSet<u16>) -> Option<u16> {
        let all = self.dynamic_band.iter().chain(&self.static_band);
        all.copied().find(|number| !refused.contains(number))
    }
}

impl NumberRefusal {
    /// The reason in conditions, a CamelCase word.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::OutOfRange(_) => "NodePortOutOfRange",
            Self::HeldBy(_) => "NodePortHeld",
            Self::UsedBySelf => "NodePortUsedTwice",
            Self::RangeFull(_) => "NodePortsExhausted",
            Self::Unreadable => "NodePortUnreadable",
        }
    }

    /// The sentence for a condition: which number `what` could not have, and why.
    pub(crate) fn sentence(&self, wanted: Use, number: Option<u16>) -> String {
        let what = match wanted {
            Use::Port(key) => format!("Port {key}"),
            Use::HealthCheck | Use::Leaving => "The health check".to_owned(),
        };
        let number = number.map(|n| n.to_string()).unwrap_or_default();
        match self {
            Self::OutOfRange(range) => format!(
                "{what} asks for node port {number}, which is outside {range}: ask for one inside."
            ),
            Self::HeldBy(holder) => format!(
                "{what} asks for node port {number}, which Service {holder} holds: it gets it when that one lets go."
            ),
            Self::UsedBySelf => format!(
                "{what} asks for node port {number}, which this Service uses for another port: ask for another number."
            ),
            Self::Unreadable => {
                format!("{what} asks for a node port that can't be read, and gets none.")
            }
            Self::RangeFull(range) => format!(
                "{what} gets no node port: all of {range} are held. It gets one when a Service lets go."
            ),
        }
    }
}
