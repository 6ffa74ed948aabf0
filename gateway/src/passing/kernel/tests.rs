use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};

use socket2::{Domain, Protocol, Socket, Type};

use super::super::testing::{in_namespace, run};
use super::*;
use crate::bpf::instructions::{
    Instruction, MAP_LOOKUP_ELEM, R, add, add_atomically64, call, copy, exit, jump_if_equal,
    jump_unless_equal, load32, map, set, store32,
};

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const TCP: u8 = 6;
const UDP: u8 = 17;

const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 9);
/// An address that is passed, and one that is not.
const PASSED: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const OTHER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);

/// Answers: `TCX_NEXT`, `TCX_PASS`.
const TO_NEXT: i32 = -1;
const TO_KERNEL: i32 = 0;

/// An interface on which packets of a client arrive, and a way aside for a filter that takes packets.
struct PassingSite {
    interface: u32,
    client: Socket,
    program: PassingProgram,
}

impl PassingSite {
    fn new() -> Self {
        for family in ["all", "default"] {
            let quiet = format!("/proc/sys/net/ipv6/conf/{family}/disable_ipv6");
            std::fs::write(quiet, "1").unwrap();
        }
        run("ip link add gateway0 address 02:00:00:00:00:01 type veth peer name client0");
        run("ip link add aside0 type veth peer name aside1");
        for name in ["gateway0", "client0", "aside0", "aside1"] {
            run(&format!("ip link set {name} up"));
        }
        run(&format!("ip address add {CLIENT}/24 dev client0"));
        run("ip route add 203.0.113.0/24 dev client0");
        for to in [PASSED, OTHER] {
            run(&format!(
                "ip neighbor add {to} lladdr 02:00:00:00:00:01 dev client0"
            ));
        }
        let index = std::fs::read_to_string("/sys/class/net/gateway0/ifindex");
        let index = index.ok().and_then(|it| it.trim().parse().ok());
        let interface = index.unwrap_or_else(|| {
            let shown = run("ip -o link show gateway0");
            shown.split(':').next().unwrap().trim().parse().unwrap()
        });
        // Packets with a header of our own.
        let client = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255))).unwrap();
        client.bind_device(Some(b"client0")).unwrap();
        let inquiry = Arc::new(bpf::processor_numbers().unwrap());
        let program = PassingProgram::load(&inquiry).unwrap();
        Self {
            interface,
            client,
            program,
        }
    }

    fn pass(&mut self) {
        let to = HardwareAddress([2, 0, 0, 0, 0, 7]);
        let wanted = [((self.interface, IpAddr::V4(PASSED)), to)];
        assert!(self.program.set(&wanted.into()).is_empty());
    }

    fn send(&self, to: Ipv4Addr, protocol: u8, flags: u8) {
        let mut packet = vec![0x45, 0, 0, 40, 0, 1, 0, 0, 64, protocol, 0, 0];
        packet.extend(CLIENT.octets());
        packet.extend(to.octets());
        packet.extend([0x9c, 0x40, 0, 80, 0, 0, 0x1b, 0x58, 0, 0, 0, 1, 0x50, flags]);
        packet.resize(40, 0);
        let place = SocketAddr::from((to, 0)).into();
        assert_eq!(self.client.send_to(&packet, &place).unwrap(), 40);
    }

    /// Sends one packet that is passed and four that are not. So many are passed then, come back to the client's network,
    /// and are seen by others.
    fn exchange(&self, others: impl Fn() -> u64, passed: u64, seen: u64) {
        let now = || [counted(&self.program.count), received("client0"), others()];
        let before = now();
        self.send(PASSED, TCP, ACK);
        self.send(PASSED, TCP, SYN);
        self.send(PASSED, UDP, ACK);
        self.send(OTHER, TCP, ACK);
        self.send(OTHER, UDP, ACK);
        let wanted = [before[0] + passed, before[1] + passed, before[2] + seen];
        // The kernel may take them a moment later.
        let end = Instant::now() + Duration::from_secs(10);
        while now() != wanted && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(now(), wanted, "before: {before:?}");
    }
}

/// How many packets an interface has received. One of a pair has it when the other has sent it.
fn received(interface: &str) -> u64 {
    let shown = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    let line = shown
        .lines()
        .find_map(|line| line.trim().strip_prefix(interface));
    let line = line.unwrap().trim_start_matches(':');
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// A program that counts IPv4 packets and gives that answer, as another one at the same interface may.
fn counting(count: &Map<4, 8>, answer: i32) -> OwnedFd {
    use R::{R0, R1, R2, R6, R10};
    let mut code: Vec<Instruction> = vec![
        copy(R6, R1),
        load32(R2, R6, 16),
        jump_unless_equal(R2, 0x0800_u16.to_be().into(), 10),
        set(R2, 0),
        store32(R10, -4, R2),
    ];
    code.extend(map(R1, count.number()));
    code.extend([
        copy(R2, R10),
        add(R2, -4),
        call(MAP_LOOKUP_ELEM),
        jump_if_equal(R0, 0, 2),
        set(R1, 1),
        add_atomically64(R0, 0, R1),
        set(R0, answer),
        exit(),
    ]);
    bpf::load_for_ingress(&code).unwrap()
}

fn counted(count: &Map<4, 8>) -> u64 {
    u64::from_ne_bytes(count.get([0; 4]).unwrap())
}

#[test]
fn other_programs_on_the_interface_get_all_that_is_not_passed() {
    const NAME: &str =
        "passing::kernel::tests::other_programs_on_the_interface_get_all_that_is_not_passed";
    if !in_namespace(NAME) {
        return;
    }
    let mut site = PassingSite::new();
    // One that was there before, and takes all, as a CNI's does.
    let theirs = bpf::counter().unwrap();
    let there = bpf::attach_last_to_ingress(&counting(&theirs, TO_KERNEL), site.interface).unwrap();
    site.pass();
    site.exchange(|| counted(&theirs), 1, 4);
    // One that comes later, behind ours.
    drop(there);
    let later = bpf::counter().unwrap();
    let there = bpf::attach_last_to_ingress(&counting(&later, TO_KERNEL), site.interface).unwrap();
    site.exchange(|| counted(&later), 1, 4);
    // A filter of tc(8) that takes all.
    drop(there);
    run("tc qdisc add dev gateway0 clsact");
    run(
        "tc filter add dev gateway0 ingress protocol ip u32 match u32 0 0 \
         action mirred egress redirect dev aside0",
    );
    site.exchange(|| received("aside1"), 1, 4);
}

#[test]
fn the_program_goes_first_again_where_another_one_has_come_before_it() {
    const NAME: &str =
        "passing::kernel::tests::the_program_goes_first_again_where_another_one_has_come_before_it";
    if !in_namespace(NAME) {
        return;
    }
    let mut site = PassingSite::new();
    site.pass();
    // One that lets others look at packets, too, is in nobody's way.
    let theirs = bpf::counter().unwrap();
    let polite = bpf::attach_to_ingress(&counting(&theirs, TO_NEXT), site.interface).unwrap();
    site.exchange(|| counted(&theirs), 1, 5);
    drop(polite);
    // One that takes all.
    let theirs = bpf::counter().unwrap();
    let _greedy = bpf::attach_to_ingress(&counting(&theirs, TO_KERNEL), site.interface).unwrap();
    site.exchange(|| counted(&theirs), 0, 5);
    // Two that want to be first change places seldom.
    site.pass();
    site.exchange(|| counted(&theirs), 0, 5);
    let link = site.program.links.get_mut(&site.interface).unwrap();
    link.since = link.since.checked_sub(FRONT).unwrap();
    site.pass();
    site.exchange(|| counted(&theirs), 1, 4);
    assert_eq!(bpf::ingress_programs(site.interface).unwrap().len(), 2);
}

/// Says so many bytes, and what it hears to the end must be as many. `late`: it reads when the other end has to wait.
fn talk(mut stream: TcpStream, says: usize, hears: usize, late: bool) {
    std::thread::scope(|scope| {
        let mut writer = stream.try_clone().unwrap();
        scope.spawn(move || {
            let block = [7; 9_000];
            let mut left = says;
            while left > 0 {
                left -= writer.write(&block[..left.min(block.len())]).unwrap();
            }
            writer.shutdown(Shutdown::Write).unwrap();
        });
        if late {
            std::thread::sleep(Duration::from_millis(300));
        }
        let mut heard = 0;
        let mut buffer = vec![0; 50_000];
        loop {
            match stream.read(&mut buffer).unwrap() {
                0 => break,
                length => heard += length,
            }
        }
        assert_eq!(heard, hears);
    });
}

#[test]
fn nothing_of_a_connection_here_is_passed_whatever_is_said_on_it() {
    const NAME: &str =
        "passing::kernel::tests::nothing_of_a_connection_here_is_passed_whatever_is_said_on_it";
    const LOOPBACK: u32 = 1;
    const SIZES: [usize; 4] = [0, 1, 70_000, 6_000_000];
    if !in_namespace(NAME) {
        return;
    }
    let inquiry = Arc::new(bpf::processor_numbers().unwrap());
    let mut program = PassingProgram::load(&inquiry).unwrap();
    let to = HardwareAddress([2, 0, 0, 0, 0, 7]);
    let homes = ["127.0.0.1", "::1"].map(|it| it.parse::<IpAddr>().unwrap());
    // Both ends are on this host, so each packet is looked at.
    let wanted = homes.map(|home| ((LOOPBACK, home), to));
    assert!(program.set(&wanted.into()).is_empty());
    std::thread::scope(|scope| {
        for home in homes {
            for (n, (says, hears)) in SIZES
                .iter()
                .flat_map(|says| SIZES.map(|hears| (*says, hears)))
                .enumerate()
            {
                scope.spawn(move || {
                    let listener = TcpListener::bind((home, 0)).unwrap();
                    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                    let (server, _) = listener.accept().unwrap();
                    let server = std::thread::spawn(move || talk(server, hears, says, n % 3 == 0));
                    talk(client, says, hears, n % 4 == 0);
                    server.join().unwrap();
                });
            }
        }
    });
    assert_eq!(counted(&program.count), 0);
}
