//! Messages of nf_tables over netlink (linux/netfilter/nf_tables.h), as many of them as Fairway's tables need: one of ARP
//! rules, and one that finds packets of transparent sockets. The image has no `nft`, and a program to start is one more thing to wait for.

use std::io;
use std::time::Duration;

use rtnetlink::sys::{Socket, SocketAddr};
use socket2::SockRef;

/// `NETLINK_NETFILTER`, `NFNL_SUBSYS_NFTABLES`.
const PROTOCOL: isize = 12;
const NF_TABLES: u16 = 10;

/// Types of messages.
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const NEW_TABLE: u16 = 0;
const GET_TABLE: u16 = 1;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const NEW_RULE: u16 = 6;
const GET_RULE: u16 = 7;

/// Flags of messages (linux/netlink.h), and the types of answers that have only an error or success.
const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
const DUMP: u16 = 0x300;
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// The flag of an attribute that holds others.
const NESTED: u16 = 0x8000;

/// One element of a list of attributes.
const ELEMENT: u16 = 1;

/// The registers for verdicts and for values (`NFT_REG_VERDICT`, `NFT_REG_1`).
const VERDICT: u32 = 0;
const VALUE: u32 = 1;

/// The kernel answers at once. If it does not, something else is wrong.
const PATIENCE: Duration = Duration::from_secs(2);

/// Which packets a table is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum TableFamily {
    /// Those of IPv4 and IPv6 (`NFPROTO_INET`).
    Inet = 1,
    /// Those of ARP (`NFPROTO_ARP`).
    Arp = 3,
}

/// Where packets are looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) enum PacketHook {
    /// Before the kernel takes an ARP packet in.
    ArpInput,
    /// Before the kernel sends an ARP packet.
    ArpOutput,
    /// Before the kernel decides whom an IP packet is for, and before its destination is replaced (`mangle`).
    Prerouting,
}

impl PacketHook {
    /// The number of the hook, and the priority there.
    fn place(self) -> (u32, i32) {
        match self {
            Self::ArpInput => (0, 0),
            Self::ArpOutput => (1, 0),
            Self::Prerouting => (0, -150),
        }
    }
}

/// The attributes of a message, or inside another attribute.
#[derive(Debug, Default)]
struct Attributes(Vec<u8>);

impl Attributes {
    fn add(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// Numbers are in the order of the network.
    fn number(self, kind: u16, value: u32) -> Self {
        self.add(kind, &value.to_be_bytes())
    }

    fn text(self, kind: u16, value: &str) -> Self {
        self.add(kind, &[value.as_bytes(), &[0]].concat())
    }

    fn nested(self, kind: u16, inner: &Self) -> Self {
        self.add(kind | NESTED, &inner.0)
    }

    fn is_too_long(&self) -> bool {
        self.0.len() > usize::from(u16::MAX) - 4
    }
}

/// A rule: expressions that are evaluated one after the other, until one does not match.
#[derive(Debug, Default)]
pub(crate) struct RuleExpressions(Attributes);

impl RuleExpressions {
    fn expression(self, name: &str, data: &Attributes) -> Self {
        let expression = Attributes::default().text(1, name).nested(2, data);
        Self(self.0.nested(ELEMENT, &expression))
    }

    /// Loads bytes of the ARP packet.
    pub(crate) fn load(self, offset: u32, length: u32) -> Self {
        let data = Attributes::default().number(1, VALUE).number(2, 1);
        self.expression("payload", &data.number(3, offset).number(4, length))
    }

    /// Loads the name of the interface that the packet leaves by, with zeroes after it.
    pub(crate) fn load_interface(self) -> Self {
        const OUTPUT_NAME: u32 = 7;
        self.expression(
            "meta",
            &Attributes::default()
                .number(1, VALUE)
                .number(2, OUTPUT_NAME),
        )
    }

    /// Goes on if what was loaded is this.
    pub(crate) fn equals(self, value: &[u8]) -> Self {
        let value = Attributes::default().add(1, value);
        let data = Attributes::default().number(1, VALUE).number(2, 0);
        self.expression("cmp", &data.nested(3, &value))
    }

    /// Goes on if what was loaded is between these, or is one of them.
    pub(crate) fn between(self, first: &[u8], last: &[u8]) -> Self {
        let value = |bytes| Attributes::default().add(1, bytes);
        let data = Attributes::default().number(1, VALUE).number(2, 0);
        let data = data.nested(3, &value(first)).nested(4, &value(last));
        self.expression("range", &data)
    }

    /// Writes bytes into the ARP packet.
    pub(crate) fn store(self, offset: u32, value: &[u8]) -> Self {
        let length = u32::try_from(value.len()).unwrap_or_default();
        let value = Attributes::default().add(1, value);
        let immediate = Attributes::default().number(1, VALUE).nested(2, &value);
        let data = Attributes::default().number(5, VALUE).number(2, 1);
        self.expression("immediate", &immediate)
            .expression("payload", &data.number(3, offset).number(4, length))
    }

    fn verdict(self, verdict: &Attributes) -> Self {
        let data = Attributes::default().nested(2, verdict);
        let immediate = Attributes::default().number(1, VERDICT).nested(2, &data);
        self.expression("immediate", &immediate)
    }

    /// Goes on if the packet is one of a socket of this host that has another address than the host's
    /// (`IP_TRANSPARENT`).
    pub(crate) fn of_transparent_socket(self) -> Self {
        const TRANSPARENT: u32 = 0;
        let data = Attributes::default().number(1, TRANSPARENT);
        self.expression("socket", &data.number(2, VALUE))
            .equals(&[1])
    }

    /// Sets these bits of the packet's mark.
    pub(crate) fn set_mark(self, bits: u32) -> Self {
        const MARK: u32 = 3;
        let value = |bits: u32| Attributes::default().add(1, &bits.to_ne_bytes());
        let load = Attributes::default().number(1, VALUE).number(2, MARK);
        let change = Attributes::default()
            .number(1, VALUE)
            .number(2, VALUE)
            .number(3, 4);
        let change = change.nested(4, &value(!bits)).nested(5, &value(bits));
        let store = Attributes::default().number(2, MARK).number(3, VALUE);
        self.expression("meta", &load)
            .expression("bitwise", &change)
            .expression("meta", &store)
    }

    pub(crate) fn drop_packet(self) -> Self {
        self.verdict(&Attributes::default().number(1, 0))
    }

    pub(crate) fn accept(self) -> Self {
        self.verdict(&Attributes::default().number(1, 1))
    }

    /// Goes on in another chain, and does not come back (`NFT_GOTO`).
    pub(crate) fn go_to(self, chain: &str) -> Self {
        const GOTO: u32 = (-4_i32).cast_unsigned();
        self.verdict(&Attributes::default().number(1, GOTO).text(2, chain))
    }
}

/// Changes that the kernel makes all together, or none of them.
#[derive(Debug)]
pub(crate) struct TableBatch {
    family: TableFamily,
    table: &'static str,
    bytes: Vec<u8>,
    last: u32,
    is_too_long: bool,
}

impl TableBatch {
    /// A batch about one table.
    pub(crate) fn new(family: TableFamily, table: &'static str) -> Self {
        let mut batch = Self {
            family,
            table,
            bytes: Vec::new(),
            last: 0,
            is_too_long: false,
        };
        batch.edge(BATCH_BEGIN);
        batch
    }

    /// Adds the table, if it is not there.
    pub(crate) fn add_table(&mut self) {
        self.change(
            NEW_TABLE,
            CREATE,
            &Attributes::default().text(1, self.table),
        );
    }

    /// Removes the table with all that is in it.
    pub(crate) fn remove_table(&mut self) {
        self.change(DELETE_TABLE, 0, &Attributes::default().text(1, self.table));
    }

    /// Adds a chain, which the kernel runs at `hook`, or only other chains lead to.
    pub(crate) fn add_chain(&mut self, chain: &str, hook: Option<PacketHook>) {
        let mut attributes = Attributes::default().text(1, self.table).text(3, chain);
        if let Some(hook) = hook {
            let (number, priority) = hook.place();
            // Policy 1 is to accept.
            let hook = Attributes::default().number(1, number);
            let hook = hook.number(2, priority.cast_unsigned());
            attributes = attributes.nested(4, &hook).number(5, 1).text(7, "filter");
        }
        self.change(NEW_CHAIN, CREATE, &attributes);
    }

    /// Adds a rule at the end of a chain.
    pub(crate) fn add_rule(&mut self, chain: &str, rule: &RuleExpressions) {
        let attributes = Attributes::default().text(1, self.table).text(2, chain);
        self.is_too_long |= rule.0.is_too_long();
        self.change(NEW_RULE, CREATE | APPEND, &attributes.nested(4, &rule.0));
    }

    fn change(&mut self, kind: u16, flags: u16, attributes: &Attributes) {
        self.last += 1;
        let kind = (NF_TABLES << 8) | kind;
        let message = message(
            kind,
            flags | ACKNOWLEDGE,
            self.last,
            (self.family as u8, 0),
            attributes,
        );
        self.bytes.extend(message);
    }

    fn edge(&mut self, kind: u16) {
        let none = Attributes::default();
        let message = message(kind, 0, self.last, (0, NF_TABLES), &none);
        self.bytes.extend(message);
    }

    /// Has the kernel make the changes.
    ///
    /// # Errors
    /// The kernel has no nf_tables for ARP (EOPNOTSUPP, EAFNOSUPPORT, ENOENT), or this thread may not (EPERM).
    pub(crate) fn commit(mut self) -> io::Result<()> {
        if self.is_too_long {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.edge(BATCH_END);
        exchange(&self.bytes, self.last).map(drop)
    }
}

/// How many rules a table has; none: there is no such table.
///
/// # Errors
/// It can't be asked.
pub(crate) fn count_rules(family: TableFamily, table: &str) -> io::Result<Option<usize>> {
    let name = Attributes::default().text(1, table);
    let kind = |kind| (NF_TABLES << 8) | kind;
    let family = family as u8;
    let table = message(kind(GET_TABLE), ACKNOWLEDGE, 1, (family, 0), &name);
    let rules = message(kind(GET_RULE), DUMP, 1, (family, 0), &name);
    let count = exchange(&table, 1).and_then(|_| exchange(&rules, 1));
    match count {
        Ok(count) => Ok(Some(count)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// A message with the head of netfilter's ones (`struct nfgenmsg`): family and resource.
fn message(
    kind: u16,
    flags: u16,
    number: u32,
    (family, resource): (u8, u16),
    attributes: &Attributes,
) -> Vec<u8> {
    let length = u32::try_from(20 + attributes.0.len()).unwrap_or(u32::MAX);
    let mut message = Vec::new();
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend((flags | REQUEST).to_ne_bytes());
    message.extend(number.to_ne_bytes());
    message.extend([0; 4]);
    message.extend([family, 0]);
    message.extend(resource.to_be_bytes());
    message.extend(&attributes.0);
    message
}

/// Sends messages, and reads answers until the first failure or the success of number `last`. Returns how many rules
/// were told of.
fn exchange(messages: &[u8], last: u32) -> io::Result<usize> {
    let mut socket = Socket::new(PROTOCOL)?;
    socket.bind_auto()?;
    let options = SockRef::from(&socket);
    options.set_read_timeout(Some(PATIENCE))?;
    let _ = options.set_send_buffer_size(messages.len() * 2);
    socket.send_to(messages, &SocketAddr::new(0, 0), 0)?;
    let mut buffer = Vec::with_capacity(1 << 16);
    let mut rules = 0;
    loop {
        buffer.clear();
        socket.recv(&mut buffer, 0)?;
        if is_done(&buffer, last, &mut rules)? {
            return Ok(rules);
        }
    }
}

/// Looks at answers, and counts the rules among them. Whether it is among them that the last message has succeeded, or
/// that one has failed.
fn is_done(mut answers: &[u8], last: u32, rules: &mut usize) -> io::Result<bool> {
    while let Some(head) = answers.first_chunk::<16>() {
        let [a, b, c, d, e, f, _, _, g, h, i, j, ..] = *head;
        let length = u32::from_ne_bytes([a, b, c, d]) as usize;
        let (kind, number) = (u16::from_ne_bytes([e, f]), u32::from_ne_bytes([g, h, i, j]));
        // None where the length is less than that of the head.
        let Some(answer) = answers.get(16..length) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        if kind == (NF_TABLES << 8) | NEW_RULE {
            *rules += 1;
        }
        if kind == ERROR || kind == DONE {
            let code = answer.first_chunk().map_or(0, |it| i32::from_ne_bytes(*it));
            if code != 0 {
                return Err(io::Error::from_raw_os_error(code.saturating_neg()));
            }
            if number == last {
                return Ok(true);
            }
        }
        answers = answers
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(kind: u16, number: u32, code: i32) -> Vec<u8> {
        let mut answer = Vec::new();
        answer.extend(36_u32.to_ne_bytes());
        answer.extend(kind.to_ne_bytes());
        answer.extend([0, 0]);
        answer.extend(number.to_ne_bytes());
        answer.extend([0; 4]);
        answer.extend(code.to_ne_bytes());
        answer.extend([0; 16]);
        answer
    }

    fn is_done(answers: &[u8], last: u32) -> io::Result<bool> {
        super::is_done(answers, last, &mut 0)
    }

    #[test]
    fn rules_are_counted_until_all_have_been_told() {
        let rule = answer((NF_TABLES << 8) | NEW_RULE, 1, 7);
        let mut rules = 0;
        let some = [rule.clone(), rule.clone()].concat();
        assert!(!super::is_done(&some, 1, &mut rules).unwrap_or(true));
        let rest = [rule, answer(DONE, 1, 0)].concat();
        assert!(super::is_done(&rest, 1, &mut rules).unwrap_or(false));
        assert_eq!(rules, 3);
    }

    #[test]
    fn answers_are_read_up_to_the_last_one() {
        let first = answer(ERROR, 1, 0);
        assert!(!is_done(&first, 2).unwrap_or(true));
        let both = [first.clone(), answer(ERROR, 2, 0)].concat();
        assert!(is_done(&both, 2).unwrap_or(false));
        let failed = [first.clone(), answer(ERROR, 2, -libc::EPERM)].concat();
        let error = is_done(&failed, 2).map_err(|it| it.raw_os_error());
        assert_eq!(error, Err(Some(libc::EPERM)));
        // What is no answer at all, and what is cut.
        let other = [answer(NEW_TABLE, 2, 7), first].concat();
        assert!(!is_done(&other, 2).unwrap_or(true));
        assert!(is_done(other.get(..60).unwrap_or_default(), 2).is_err());
        assert!(!is_done(&[0; 7], 2).unwrap_or(true));
        assert!(is_done(&[0; 16], 2).is_err(), "a length of 0 has no end");
    }
}
