//! When addresses are announced.

use super::*;

#[test]
fn an_address_that_was_taken_is_announced_at_once_and_again() {
    let mut responder = Responder::new(OURS);
    let both: [IpAddr; 2] = [v4(1).into(), v6(1).into()];
    responder.set_owned(at(0), &terms(&both, 7));
    let mut said = Vec::new();
    for ms in 0..=5000 {
        while let Some(frame) = responder.next_due(at(ms), FOREVER) {
            if frame.kind.claims() {
                said.push((ms, say(&frame.bytes)));
            }
        }
    }
    let all = "ff:ff:ff:ff:ff:ff";
    let each = [
        format!("{OURS} > {all}: who has 203.0.113.1, tell 203.0.113.1"),
        format!(
            "{OURS} > 33:33:00:00:00:01: {} tells ff02::1 of {} at {OURS}, override",
            v6(1),
            v6(1)
        ),
        format!("{OURS} > {all}: 203.0.113.1 tells 203.0.113.1 ({OURS})"),
    ];
    let wanted = [0, 100, 300, 1000, 2000, 5000];
    let wanted = wanted
        .iter()
        .flat_map(|ms| each.iter().map(move |it| (*ms, it.clone())));
    assert_eq!(said, wanted.collect::<Vec<_>>());
    // The same term is no news, another one is.
    responder.set_owned(at(QUIET), &terms(&both, 7));
    assert_eq!(responder.next_due(at(QUIET), FOREVER), None);
    responder.set_owned(at(QUIET), &terms(&both, 8));
    assert!(responder.next_due(at(QUIET), FOREVER).is_some());
}

#[test]
fn all_is_announced_again_when_the_link_is_new() {
    let mut responder = responder();
    assert_eq!(responder.next_due(at(QUIET), FOREVER), None);
    responder.link_is_new(at(QUIET), OTHER);
    let mut said = Vec::new();
    while let Some(frame) = responder.next_due(at(QUIET), FOREVER) {
        said.push(say(&frame.bytes));
    }
    assert_eq!(said.len(), 3, "{said:?}");
    assert!(
        said.iter().all(|it| it.starts_with(&OTHER.to_string())),
        "{said:?}"
    );
}

/// What 4,000 addresses are announced with in two minutes: per address, the times.
fn storm(turn: u64) -> BTreeMap<Ipv4Addr, Vec<u64>> {
    let mut responder = Responder::new(OURS);
    let owned: BTreeMap<IpAddr, u64> = (0..4000)
        .map(|n| (Ipv4Addr::from_bits(0x0a00_0000 + n).into(), 1))
        .collect();
    responder.set_owned(at(0), &owned);
    let mut said: BTreeMap<Ipv4Addr, Vec<u64>> = BTreeMap::new();
    for ms in (0..120_000).step_by(turn as usize) {
        while let Some(frame) = responder.next_due(at(ms), FOREVER) {
            if !frame.kind.claims() {
                continue;
            }
            let frame = EthernetFrame::read(&frame.bytes).unwrap();
            let packet = ArpPacket::read(frame.payload).unwrap();
            if packet.operation == ArpOperation::Request {
                said.entry(packet.sender).or_default().push(ms);
            }
        }
    }
    said
}

#[test]
fn four_thousand_addresses_are_announced_without_a_storm() {
    let said = storm(5);
    assert_eq!(said.len(), 4000);
    let mut seconds: BTreeMap<u64, usize> = BTreeMap::new();
    for (address, times) in &said {
        assert!(
            *times.first().unwrap() < 2_000,
            "{address} first at {} ms",
            times[0]
        );
        let gaps = times.windows(2).map(|pair| pair[1] - pair[0]);
        let gap = gaps.chain([120_000 - times.last().unwrap()]).max().unwrap();
        assert!(gap < 60_000, "{address} not for {gap} ms");
        for time in times {
            *seconds.entry(time / 1000).or_default() += 1;
        }
    }
    // Requests are half of what is sent. At first 500 go at once.
    let most = *seconds.values().max().unwrap();
    assert!(most <= 2_500, "{most} in a second");
    // Later they are spread evenly: 4,000 in 30 s.
    for second in 60..119 {
        let count = seconds.get(&second).copied().unwrap_or_default();
        assert!((120..147).contains(&count), "{count} in second {second}");
    }
}

#[test]
fn an_address_that_is_taken_while_others_wait_goes_first() {
    let mut responder = Responder::new(OURS);
    let mut owned: BTreeMap<IpAddr, u64> = (0..4000)
        .map(|n| (Ipv4Addr::from_bits(0x0a00_0000 + n).into(), 1))
        .collect();
    responder.set_owned(at(0), &owned);
    while responder.next_due(at(0), FOREVER).is_some() {}
    owned.insert(v4(1).into(), 1);
    responder.set_owned(at(50), &owned);
    let next = responder.next_due(at(50), FOREVER).unwrap();
    assert!(
        say(&next.bytes).contains("who has 203.0.113.1"),
        "{}",
        say(&next.bytes)
    );
}
