//! What people install: the chart, the plain manifests, the image, the dashboard and the alerts.
//!
//! Reading order: [`helm`] renders the chart; [`chart`] asks whether it is well made, [`values`] what its
//! values do, [`rights`] what it lets Fairway do; [`watching`] is about dashboard and alerts, which [`promql`] reads,
//! [`metrics`] about what they ask for, [`firing`] and [`firing_in_cluster`] about the way from a state
//! to an alert, with a [`timeline`] of scrapes.

mod chart;
mod firing;
mod firing_in_cluster;
mod helm;
mod metrics;
mod project;
mod promql;
mod rights;
mod timeline;
mod values;
mod watching;

use chart::*;
use fairway_integration::tests;
use firing::*;
use firing_in_cluster::*;
use metrics::{
    every_metric_is_documented_with_its_labels_and_nothing_else_is,
    every_metric_that_is_watched_is_documented, no_text_names_a_metric_that_there_is_not,
};
use promql::names_and_labels_are_told_from_the_language;
use rights::*;
use values::every_value_of_the_chart_has_an_effect;
use watching::*;

tests![
    may run beside others;
    helm_finds_no_fault_with_the_chart,
    the_chart_renders_with_all_kinds_of_values,
    every_object_is_one_that_the_api_server_knows,
    wrong_values_are_refused_with_a_sentence_that_helps,
    every_value_of_the_chart_has_an_effect,
    the_notes_tell_the_next_command,
    the_plain_manifests_are_the_charts,
    the_crds_are_the_programs,
    versions_are_the_workspaces,
    flags_are_ones_that_the_program_takes,
    a_gateway_has_time_to_drain,
    controller_and_gateway_do_not_clash_on_a_host,
    roles_hold_what_each_part_needs_and_no_more,
    no_role_has_a_wildcard_or_reads_secrets_of_others,
    a_gateway_can_write_nothing_but_leases_of_its_own_namespace,
    a_gateway_is_held_to_its_own_lease,
    the_controller_is_nobody_and_has_no_capability,
    the_gateway_has_five_capabilities,
    kernel_routes_add_one_device_and_no_capability,
    the_static_pod_of_the_api_servers_example_is_one_that_a_kubelet_knows,
    the_controller_talks_to_the_api_server_and_to_dns_alone,
    names_and_labels_are_told_from_the_language,
    promtool_finds_no_fault_with_the_alerts,
    every_alert_is_tested_and_says_what_to_do,
    every_metric_is_documented_with_its_labels_and_nothing_else_is,
    every_metric_that_is_watched_is_documented,
    no_text_names_a_metric_that_there_is_not,
    what_an_alert_is_about_is_exported_before_the_first_traffic_and_after_a_restart,
    an_alert_fires_in_the_state_that_it_is_about,
    an_alert_fires_for_a_gateway_that_nobody_tells_anything,
    an_alert_fires_while_clients_wait_for_file_descriptors,
    an_alert_fires_when_one_of_two_does_not_answer,
    an_alert_fires_while_two_builds_run,
    an_alert_fires_where_no_gateway_serves_as_told,
    an_alert_fires_when_the_api_server_takes_no_status,
    the_operators_objects_hold_the_same_alerts_and_dashboard,
];
