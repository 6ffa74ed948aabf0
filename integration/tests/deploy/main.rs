//! What people install: the chart, the plain manifests, the image, the dashboard and the alerts.
//!
//! Reading order: [`helm`] renders the chart; [`chart`] asks whether it is well made, [`rights`]
//! what it lets Fairway do; [`watching`] is about dashboard and alerts, which [`promql`] reads.

mod chart;
mod helm;
mod project;
mod promql;
mod rights;
mod watching;

use chart::*;
use fairway_integration::tests;
use promql::names_and_labels_are_told_from_the_language;
use rights::*;
use watching::*;

tests![
    helm_finds_no_fault_with_the_chart,
    the_chart_renders_with_all_kinds_of_values,
    every_object_is_one_that_the_api_server_knows,
    wrong_values_are_refused_with_a_sentence_that_helps,
    the_notes_tell_the_next_command,
    the_plain_manifests_are_the_charts,
    the_crd_is_the_programs,
    versions_are_the_workspaces,
    flags_are_ones_that_the_program_takes,
    a_gateway_has_time_to_drain,
    controller_and_gateway_do_not_clash_on_a_host,
    roles_hold_what_each_part_needs_and_no_more,
    no_role_has_a_wildcard_or_reads_secrets,
    a_gateway_can_write_nothing_but_leases_of_its_own_namespace,
    a_gateway_is_held_to_its_own_lease,
    the_controller_is_nobody_and_has_no_capability,
    the_gateway_has_three_capabilities,
    the_controller_talks_to_the_api_server_and_to_dns_alone,
    names_and_labels_are_told_from_the_language,
    promtool_finds_no_fault_with_the_alerts,
    every_alert_is_tested_and_says_what_to_do,
    every_metric_that_is_watched_is_exposed,
    the_operators_objects_hold_the_same_alerts_and_dashboard,
];
