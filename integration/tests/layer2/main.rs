//! What answers ARP and Neighbor Discovery, as a process of its own on an edge. Who owns an address is written into a
//! file, so each test says it, whatever a fleet would decide.
//!
//! The process is this program itself (`--responder FILE`).

mod answering;
mod permitted;
mod responder;
mod trouble;

use std::path::Path;
use std::process::ExitCode;

use fairway_integration::harness::{self, Test};

/// A test and its name.
macro_rules! test {
    ($file:ident :: $test:ident) => {
        (stringify!($test), $file::$test)
    };
}

const TESTS: &[Test] = &[
    test!(answering::the_owner_answers_and_nobody_else),
    test!(answering::a_process_that_is_killed_or_stopped_answers_no_longer),
    test!(answering::the_table_outlives_a_kill_is_taken_over_and_goes_with_a_clean_end),
    test!(answering::a_table_that_somebody_removes_or_empties_is_made_again),
    test!(answering::who_does_not_own_an_address_and_sends_from_it_does_not_take_it_away),
    test!(answering::a_neighbor_that_asks_the_owner_alone_is_answered),
    test!(answering::an_address_that_passes_to_another_edge_is_followed_at_once),
    test!(answering::a_bridge_that_snoops_passes_solicitations_to_the_owner),
    test!(permitted::without_nftables_settings_keep_the_kernel_quiet_and_are_put_back),
    test!(permitted::a_kernel_that_cannot_be_kept_quiet_is_told),
    test!(permitted::who_may_not_open_packet_sockets_says_so_and_answers_nothing),
    test!(trouble::a_flood_of_requests_holds_up_no_announcement),
    test!(trouble::four_thousand_addresses_are_announced_at_a_bounded_rate),
    test!(trouble::a_forged_frame_is_answered_by_one_announcement),
    test!(trouble::a_host_with_the_same_address_is_a_conflict),
    test!(trouble::an_interface_may_go_and_come_back_with_another_hardware_address),
    test!(trouble::an_address_that_is_probed_for_is_found_free_or_taken),
    test!(trouble::an_address_of_an_interface_stays_reachable_and_is_told),
];

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|it| it == "--responder") {
        let file = arguments.next().unwrap_or_default();
        return match responder::respond(Path::new(&file)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error:#}");
                ExitCode::FAILURE
            }
        };
    }
    harness::run(TESTS)
}
