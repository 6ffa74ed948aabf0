//! What answers on one segment for the addresses that this gateway owns.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use super::arp::{ArpOperation, ArpPacket};
use super::conflicts::{ConflictStep, Conflicts, SeenConflict};
use super::frame::{ARP, EthernetFrame, HardwareAddress, IP_V6, ethernet};
use super::ndp::{ALL_NODES, NeighborAdvertisement, NeighborMessage, NeighborSolicitation};
use super::probes::{ProbeResult, Probes};
use super::schedule::{AnnouncementForm, AnnouncementSchedule, Scheduled};
use crate::fleet::BootTime;

/// The time from one answer to all nodes to the next one, and how many may come at once.
const TELLS_ALL: Duration = Duration::from_millis(10);
const AT_ONCE: u32 = 50;

/// A frame to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutgoingFrame {
    /// What for.
    pub kind: FrameKind,
    /// Its bytes, from the Ethernet header on.
    pub bytes: Vec<u8>,
}

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// It answers a request or a solicitation.
    Answer,
    /// It announces an address.
    Announcement(AnnouncementForm),
    /// It announces an address that another one answers for as well.
    Defence(IpAddr),
    /// It asks who has an address, and says nothing of who has it.
    Probe,
}

impl FrameKind {
    /// Whether it says that this gateway has an address: then it may be sent only as long as the right to answer
    /// lasts.
    pub fn claims(self) -> bool {
        self != Self::Probe
    }
}

/// See the module. `right` is until when it may answer ([`Fleet::answers_until`](crate::fleet::Fleet::answers_until)).
#[derive(Debug)]
pub struct Responder {
    hardware: HardwareAddress,
    /// Those of all interfaces of this host: two of them may be on one network.
    of_host: BTreeSet<HardwareAddress>,
    /// With the numbers of their terms.
    owned: BTreeMap<IpAddr, u64>,
    schedule: AnnouncementSchedule,
    conflicts: Conflicts,
    probes: Probes,
    /// When answers to all nodes are paid for: see [`Self::may_tell_all`].
    told_all_until: BootTime,
    /// Whether probes were asked first the last time, and announcements are this time.
    were_probes_first: bool,
}

impl Responder {
    /// One for an interface with this hardware address.
    pub fn new(hardware: HardwareAddress) -> Self {
        Self {
            hardware,
            of_host: [hardware].into(),
            owned: BTreeMap::new(),
            schedule: AnnouncementSchedule::default(),
            conflicts: Conflicts::default(),
            probes: Probes::default(),
            told_all_until: BootTime::default(),
            were_probes_first: false,
        }
    }

    /// These are the hardware addresses of this host's interfaces. What comes from one of them is no question and no
    /// conflict.
    pub fn set_host_hardware(&mut self, of_host: impl IntoIterator<Item = HardwareAddress>) {
        self.of_host = of_host.into_iter().collect();
        self.of_host.insert(self.hardware);
    }

    fn is_of_host(&self, hardware: HardwareAddress) -> bool {
        self.of_host.contains(&hardware)
    }

    /// These are the addresses from now on, with the numbers of their terms. One that is new, or begins a new term, is
    /// announced at once.
    pub fn set_owned(&mut self, now: BootTime, owned: &BTreeMap<IpAddr, u64>) {
        let former = std::mem::replace(&mut self.owned, owned.clone());
        for (address, term) in &former {
            if owned.get(address) != Some(term) {
                self.schedule.end(*address);
                self.conflicts.forget(*address);
            }
        }
        for (address, term) in owned {
            if former.get(address) != Some(term) {
                self.schedule.begin(now, *address);
            }
        }
    }

    /// The link has come up, has another hardware address, or reaches its neighbours another way (a bond has passed
    /// to another port): all is announced at once.
    pub fn link_is_new(&mut self, now: BootTime, hardware: HardwareAddress) {
        self.hardware = hardware;
        self.of_host.insert(hardware);
        self.schedule.begin_all(now);
    }

    /// Nothing can be sent any more: probes end without an answer.
    pub fn link_is_gone(&mut self) {
        self.probes.give_up();
    }

    /// Asks whether somebody has these addresses. The results come from [`Self::take_probe_results`] within a second.
    pub fn probe(&mut self, now: BootTime, addresses: impl IntoIterator<Item = IpAddr>) {
        for address in addresses {
            self.probes.begin(now, address);
        }
    }

    /// The results since the last call.
    pub fn take_probe_results(&mut self) -> Vec<ProbeResult> {
        self.probes.take_results()
    }

    /// Who else answers for addresses of ours, and has done so for a second at least.
    pub fn conflicts(&self) -> BTreeMap<IpAddr, SeenConflict> {
        self.conflicts.stated().collect()
    }

    /// Takes a frame that has arrived. Returns the answer.
    pub fn receive(
        &mut self,
        now: BootTime,
        right: BootTime,
        frame: &[u8],
    ) -> Option<OutgoingFrame> {
        let frame = EthernetFrame::read(frame)?;
        if self.is_of_host(frame.source) {
            return None;
        }
        let bytes = match frame.kind {
            ARP => self.receive_arp(now, right, &ArpPacket::read(frame.payload)?),
            IP_V6 => match NeighborMessage::read(frame.payload)? {
                NeighborMessage::Solicitation(it) => {
                    self.receive_solicitation(now, right, frame.source, &it)
                }
                NeighborMessage::Advertisement(it) => {
                    let hardware = it.target_hardware.unwrap_or(frame.source);
                    self.hear_owner(now, right, it.target.into(), hardware);
                    None
                }
            },
            _ => None,
        }?;
        Some(OutgoingFrame {
            kind: FrameKind::Answer,
            bytes,
        })
    }

    fn receive_arp(
        &mut self,
        now: BootTime,
        right: BootTime,
        packet: &ArpPacket,
    ) -> Option<Vec<u8>> {
        self.hear_owner(now, right, packet.sender.into(), packet.sender_hardware);
        let is_ours =
            |address: Ipv4Addr| now <= right && self.owned.contains_key(&IpAddr::V4(address));
        if packet.operation != ArpOperation::Request
            || !is_ours(packet.target)
            || is_ours(packet.sender)
            || !packet.sender_hardware.is_of_one()
            || self.is_of_host(packet.sender_hardware)
        {
            return None;
        }
        let reply = ArpPacket {
            operation: ArpOperation::Reply,
            sender_hardware: self.hardware,
            sender: packet.target,
            target_hardware: packet.sender_hardware,
            target: packet.sender,
        };
        let to = packet.sender_hardware;
        Some(ethernet(to, self.hardware, ARP, &reply.write()))
    }

    fn receive_solicitation(
        &mut self,
        now: BootTime,
        right: BootTime,
        source: HardwareAddress,
        asked: &NeighborSolicitation,
    ) -> Option<Vec<u8>> {
        let hardware = asked.source_hardware.unwrap_or(source);
        self.hear_owner(now, right, asked.source.into(), hardware);
        let is_ours =
            |address: Ipv6Addr| now <= right && self.owned.contains_key(&IpAddr::V6(address));
        if !is_ours(asked.target) || is_ours(asked.source) || self.is_of_host(hardware) {
            return None;
        }
        if asked.source.is_unspecified() {
            // Who asks has no address yet (RFC 4861, 7.2.4).
            let may = self.may_tell_all(now);
            return may.then(|| self.advertisement(asked.target));
        }
        if !hardware.is_of_one() {
            return None;
        }
        let answer = NeighborAdvertisement {
            source: asked.target,
            destination: asked.source,
            target: asked.target,
            is_solicited: true,
            overrides: true,
            target_hardware: Some(self.hardware),
        };
        Some(ethernet(hardware, self.hardware, IP_V6, &answer.write()))
    }

    /// Whether all nodes may be told an answer now; it counts then. One host that asks without an end is not to make a
    /// storm for all.
    fn may_tell_all(&mut self, now: BootTime) -> bool {
        let may = self.told_all_until.since(now) < TELLS_ALL * AT_ONCE;
        if may {
            self.told_all_until = self.told_all_until.max(now).after(TELLS_ALL);
        }
        may
    }

    /// Somebody says that it has an address.
    fn hear_owner(
        &mut self,
        now: BootTime,
        right: BootTime,
        address: IpAddr,
        hardware: HardwareAddress,
    ) {
        if address.is_unspecified() || self.is_of_host(hardware) {
            return;
        }
        self.probes.hear(address, hardware);
        // Whose right is over may not have heard yet that the address is another's.
        if now <= right && self.owned.contains_key(&address) {
            self.conflicts.hear(now, address, hardware);
        }
    }

    /// The next frame that is due. To be called until there is none, or enough has been sent for now.
    pub fn next_due(&mut self, now: BootTime, right: BootTime) -> Option<OutgoingFrame> {
        // They share a rate, and thousands of the one do not keep the others waiting.
        self.were_probes_first = !self.were_probes_first;
        match self.were_probes_first {
            true => match self.next_probe(now) {
                Some(question) => Some(question),
                None => self.next_claim(now, right),
            },
            false => match self.next_claim(now, right) {
                Some(claim) => Some(claim),
                None => self.next_probe(now),
            },
        }
    }

    fn next_probe(&mut self, now: BootTime) -> Option<OutgoingFrame> {
        let schedule = &mut self.schedule;
        let address = self.probes.take_due(now, || schedule.may_send(now))?;
        Some(self.question(address))
    }

    /// What is due for addresses that it owns.
    fn next_claim(&mut self, now: BootTime, right: BootTime) -> Option<OutgoingFrame> {
        if now > right {
            return None;
        }
        // Whoever claims thousands of addresses is not to have as many answers at once.
        if now >= self.schedule.may_send_at()
            && let Some((address, step)) = self.conflicts.take_due(now)
        {
            self.schedule.may_send(now);
            return Some(match step {
                ConflictStep::Ask => self.question(address),
                ConflictStep::Defend => {
                    let form = match address {
                        IpAddr::V4(_) => AnnouncementForm::ArpRequest,
                        IpAddr::V6(_) => AnnouncementForm::Advertisement,
                    };
                    self.announcement(address, form, FrameKind::Defence(address))
                }
            });
        }
        let (address, scheduled) = self.schedule.next(now)?;
        Some(match scheduled {
            Scheduled::Announcement(form) => {
                self.announcement(address, form, FrameKind::Announcement(form))
            }
            Scheduled::Question => self.question(address),
        })
    }

    /// When [`Self::next_due`] has something, at the earliest.
    pub fn due_at(&self, now: BootTime, right: BootTime) -> Option<BootTime> {
        let conflict = self.conflicts.due_at();
        let conflict = conflict.map(|at| at.max(self.schedule.may_send_at()));
        let claims = [conflict, self.schedule.due_at()];
        let claims = claims.into_iter().flatten().filter(|_| now <= right);
        let probe = self.probes.due_at();
        let probe = probe.map(|at| at.max(self.schedule.may_send_at()));
        claims.chain(probe).min()
    }

    fn announcement(
        &self,
        address: IpAddr,
        form: AnnouncementForm,
        kind: FrameKind,
    ) -> OutgoingFrame {
        let bytes = match address {
            IpAddr::V4(address) => {
                let (operation, target_hardware) = match form {
                    AnnouncementForm::ArpReply => (ArpOperation::Reply, self.hardware),
                    AnnouncementForm::ArpRequest | AnnouncementForm::Advertisement => {
                        (ArpOperation::Request, HardwareAddress::NONE)
                    }
                };
                self.arp_to_all(&ArpPacket {
                    operation,
                    sender_hardware: self.hardware,
                    sender: address,
                    target_hardware,
                    target: address,
                })
            }
            IpAddr::V6(address) => self.advertisement(address),
        };
        OutgoingFrame { kind, bytes }
    }

    /// Asks who has an address, in the name of none: no neighbour learns anything by it.
    fn question(&self, address: IpAddr) -> OutgoingFrame {
        let bytes = match address {
            IpAddr::V4(address) => self.arp_to_all(&ArpPacket {
                operation: ArpOperation::Request,
                sender_hardware: self.hardware,
                sender: Ipv4Addr::UNSPECIFIED,
                target_hardware: HardwareAddress::NONE,
                target: address,
            }),
            IpAddr::V6(address) => {
                let asked = NeighborSolicitation::detection(address);
                let to = HardwareAddress::of_group(asked.destination);
                ethernet(to, self.hardware, IP_V6, &asked.write())
            }
        };
        OutgoingFrame {
            kind: FrameKind::Probe,
            bytes,
        }
    }

    fn arp_to_all(&self, packet: &ArpPacket) -> Vec<u8> {
        ethernet(
            HardwareAddress::BROADCAST,
            self.hardware,
            ARP,
            &packet.write(),
        )
    }

    /// An advertisement to all nodes (RFC 4861, 7.2.6).
    fn advertisement(&self, address: Ipv6Addr) -> Vec<u8> {
        let told = NeighborAdvertisement {
            source: address,
            destination: ALL_NODES,
            target: address,
            is_solicited: false,
            overrides: true,
            target_hardware: Some(self.hardware),
        };
        let to = HardwareAddress::of_group(ALL_NODES);
        ethernet(to, self.hardware, IP_V6, &told.write())
    }
}
