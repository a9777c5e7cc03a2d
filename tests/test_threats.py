"""What went wrong in other tools, row by row, with the tests that hold it here.

Each row is one class of published failures. `TESTS` names where it is held; the check below fails for a row without
tests and for a test that is not there, in both languages.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

THREATS: dict[int, str] = {
    1: "CVE-2025-62518: the pax size is not used to find the next header, which hides entries",
    2: "CVE-2026-33055: the pax size is not used when the header has a size as well",
    3: "malformed or mixed tar extensions are skipped, and readers fall out of step",
    4: "negative sizes, empty pax values and long names without a name",
    5: "CVE-2022-2879, CVE-2025-58183: headers and sparse maps without bounds",
    6: "CVE-2021-29136: an entry for the root replaces it by a link",
    7: "CVE-2026-33056: chmod goes through a link that stands where a directory entry follows",
    8: "CVE-2021-32760: chmod of files of the host through hard links",
    9: "CVE-2026-42574: only the text of a path is looked at, links on the way are followed",
    10: "CVE-2026-50163: a hard link's target is checked in one place and resolved from another",
    11: "a title in an annotation, or a link, makes a file outside",
    12: "CVE-2024-9676: reading /etc/passwd of an image follows a link to the host, or waits for a pipe",
    13: "CVE-2014-6407, -9356, -9358: links that escape, and image IDs as paths",
    14: "CVE-2024-3727: a digest that is none becomes a path or a request",
    15: "CVE-2018-15664, CVE-2019-14271, CVE-2025-47290: checked, then used; helpers that run in the image",
    16: "`.wh.` without a name is taken for an opaque whiteout",
    17: "secrets that an upper layer deleted come back in the output",
    18: "attributes and devices of layers steer overlayfs",
    19: "CVE-2021-41190: one document is a manifest and an index",
    20: "digests and diff IDs that are not compared",
    21: "a negative size, an endless body",
    22: "CVE-2020-1702: a huge manifest or config is read into memory",
    23: "CVE-2017-14992, CVE-2023-0821: bombs that fill the disk or the memory",
    24: "CVE-2020-15157: credentials for the host of a foreign layer's URL",
    25: "a password for any realm that a 401 names",
    26: "a token that is sent again after a redirect to another host",
    27: "realms, upload locations and URLs that lead to private addresses",
    28: "CVE-2019-10214: a token over plain HTTP",
    29: "text of a configuration that runs commands",
    30: "keys of credential helpers that are mixed up",
    31: "tokens and signed URLs in errors and logs",
    32: "CVE-2021-20291: a failing decompressor leaves others waiting for good",
    33: "CVE-2026-50195: a name inside an archive poisons a cache of names",
    34: "CVE-2007-4559, CVE-2025-4517: setuid files for all to read, and a general extractor that is tricked",
    35: "CVE-2021-40153, CVE-2021-41072: an image that is unpacked to check it places files outside",
    36: "a cache folder that others can write",
    37: "a name over 255 bytes comes in through a link's target, and images made of it are damaged",
    38: "the clean-up of a run of root walks through a link that was put in the place of its private folder",
    39: "what others did to a published output gets into the cache under the key of the image",
    40: "names that collide in a hash table of a fixed seed",
    41: "metadata of a small layer fill the memory",
    42: "long or deep paths that are walked anew for each entry",
    43: "whiteouts and opaque marks through a lower layer's link remove what is outside",
    44: "a file's size is asked of the file system before all of it is written: images fail at random",
    45: "whiteouts that are not applied, attributes that get lost without a word",
    46: "two readers of a tar archive, two names for one entry",
}

HOSTILE = "tests/test_hostile_layers.py::"
ISOLATION = "tests/test_isolation.py::"
BAD = "tests/test_bad_input.py::"

TESTS: dict[int, list[str]] = {
    1: [
        HOSTILE + "test_a_pax_size_always_wins_and_hides_no_entry",
        "tests/test_archive.py::test_a_pax_size_wins_over_the_header",
    ],
    2: [HOSTILE + "test_a_pax_size_always_wins_and_hides_no_entry"],
    3: [HOSTILE + "test_a_malformed_archive_is_refused_and_named"],
    4: [
        HOSTILE + "test_a_malformed_archive_is_refused_and_named",
        "rust/src/tar/header.rs::negative_numbers_are_named",
    ],
    5: [
        HOSTILE + "test_headers_that_ask_for_too_much_are_refused",
        HOSTILE + "test_a_header_that_only_claims_to_be_large_takes_no_memory",
        "rust/src/tar/sparse.rs::maps_that_lie_are_refused",
    ],
    6: [HOSTILE + "test_the_root_can_only_be_a_directory"],
    7: [HOSTILE + "test_a_link_that_becomes_a_directory_is_replaced_not_followed"],
    8: [
        HOSTILE + "test_a_link_that_becomes_a_directory_is_replaced_not_followed",
        HOSTILE + "test_hard_links_never_leave_the_image",
    ],
    9: [
        HOSTILE + "test_entries_below_a_link_to_the_outside_stay_inside",
        HOSTILE + "test_a_whiteout_below_a_link_to_the_outside_removes_nothing_there",
        HOSTILE + "test_names_that_leave_the_root_are_refused",
    ],
    10: [
        HOSTILE + "test_hard_links_never_leave_the_image",
        HOSTILE + "test_hard_links_to_nothing_and_to_directories_are_refused",
    ],
    11: [ISOLATION + "test_annotations_are_never_paths"],
    12: [ISOLATION + "test_users_are_looked_up_in_the_image_alone"],
    13: [
        ISOLATION + "test_names_in_docker_archives_stay_in_the_archive",
        ISOLATION + "test_tags_and_names_are_never_paths",
        "tests/test_layout.py::test_links_in_a_layout_are_not_written_through",
    ],
    14: [
        "tests/test_registry_threats_documents.py::test_threat_14_digests_are_checked_before_they_are_used",
        "tests/test_registry_threats_documents.py::test_threat_14_a_digest_that_the_registry_states_is_checked",
        "rust/src/digest.rs::only_registered_algorithms_right_length_lower_case",
    ],
    # The tree is finished in memory; what writes a directory does so in a folder that nobody else can enter.
    15: [
        ISOLATION + "test_an_output_on_its_way_is_for_its_owner_alone",
        "rust/tests/directory_race.rs::a_second_thread_that_swaps_folders_reaches_nothing_outside",
        "rust/tests/directory_race.rs::links_that_are_there_before_are_not_followed",
    ],
    16: [HOSTILE + "test_whiteouts", "rust/src/whiteout.rs::a_whiteout_without_a_name_is_refused"],
    17: [ISOLATION + "test_what_a_later_layer_deleted_is_in_no_output"],
    18: [HOSTILE + "test_attributes_that_steer_overlayfs_are_dropped_and_counted", HOSTILE + "test_whiteouts"],
    19: [
        "tests/test_registry_threats_documents.py::test_threat_19_a_manifest_that_is_an_index_as_well",
        BAD + "test_what_is_not_an_image",
    ],
    20: [
        "tests/test_registry_threats_documents.py::test_threat_20_blobs_of_the_right_size_and_the_wrong_bytes",
        "tests/test_registry_threats_documents.py::test_threat_20_blobs_of_another_size",
        "rust/tests/flatten.rs::a_flipped_byte_is_a_wrong_digest_wherever_it_stands",
        "rust/tests/flatten.rs::bytes_after_the_archive_count_for_the_diff_id",
        BAD + "test_bad_layers_in_a_layout",
        BAD + "test_bad_layers_in_a_registry",
    ],
    21: [
        "tests/test_registry_threats_documents.py::test_threat_21_sizes_that_are_none",
        "tests/test_registry_threats_documents.py::test_threat_21_an_endless_body_is_left_after_one_byte_too_many",
    ],
    22: [
        "tests/test_registry_threats_documents.py::test_threat_22_a_manifest_that_is_too_long",
        "tests/test_registry_threats_documents.py::test_threat_22_a_config_that_is_too_long",
        "tests/test_registry_threats_documents.py::test_threat_22_an_error_that_is_too_long",
        "tests/test_registry_threats_documents.py::test_threat_22_a_token_that_is_too_long",
    ],
    23: [
        HOSTILE + "test_a_bomb_stops_at_the_ratio",
        HOSTILE + "test_zeros_that_compress_well_are_no_bomb",
        HOSTILE + "test_bounds_on_bytes_and_entries",
        "tests/test_sizes.py::test_all_files_together_are_bounded",
        "tests/test_sizes.py::test_a_hole_costs_nothing_in_a_tar",
        "tests/test_sizes.py::test_what_has_no_room_is_refused_before_it_is_written",
        HOSTILE + "test_a_window_beyond_the_limit_is_refused",
        HOSTILE + "test_headers_that_ask_for_too_much_are_refused",
    ],
    24: ["tests/test_registry_threats_documents.py::test_threat_24_urls_of_descriptors_are_not_followed"],
    25: ["tests/test_registry_threats_hops.py::test_threat_25_no_password_for_a_realm_on_another_host"],
    26: [
        "tests/test_registry_threats_hops.py::test_threat_26_bearer_not_resent_after_cross_host_redirect",
        "tests/test_registry_threats_hops.py::test_threat_26_no_password_for_where_a_redirect_leads",
    ],
    27: [
        "tests/test_registry_threats_hops.py::test_threat_27_addresses_that_are_not_public",
        "tests/test_registry_threats_hops.py::test_threat_27_no_hop_from_public_to_private",
    ],
    28: [
        "tests/test_registry_threats_hops.py::test_threat_28_no_token_over_plain_http",
        "tests/test_registry_threats_hops.py::test_threat_28_https_never_becomes_plain_http",
    ],
    29: [
        "tests/test_registry_threats_secrets.py::test_threat_29_helpers_are_names_and_nothing_more",
        "tests/test_registry_threats_secrets.py::test_threat_29_values_are_never_evaluated",
        "tests/test_registry_threats_secrets.py::test_threat_29_a_helper_that_hangs_is_ended",
    ],
    30: ["tests/test_registry_threats_secrets.py::test_threat_30_other_registries_get_nothing"],
    31: [
        "tests/test_registry_threats_secrets.py::test_threat_31_no_secret_in_logs_errors_and_reprs",
        BAD + "test_a_failure_never_tells_a_secret",
    ],
    32: [
        HOSTILE + "test_a_failing_decoder_lets_no_thread_wait",
        "rust/tests/flatten.rs::abort_frees_a_writer_that_waits",
    ],
    33: [ISOLATION + "test_a_name_inside_an_archive_is_no_name_of_the_cache"],
    34: [
        ISOLATION + "test_an_output_on_its_way_is_for_its_owner_alone",
        ISOLATION + "test_nobody_extracts_with_pythons_tarfile",
        "tests/test_set_id.py::test_set_id_bits_fall_away_with_their_owner",
    ],
    35: [ISOLATION + "test_a_squashfs_made_to_escape_is_never_unpacked_by_us"],
    36: [
        "tests/test_cache.py::test_folders_that_are_not_to_be_trusted",
        "tests/test_cache.py::test_a_damaged_blob_is_a_miss",
        "tests/test_cache_outputs.py::test_a_damaged_output_is_a_miss",
    ],
    39: ["tests/test_cache_private.py::test_an_output_that_others_touch_at_once"],
    38: [
        "tests/test_removal.py::test_links_in_the_place_of_ours_lead_nowhere",
        "tests/test_removal.py::test_links_put_there_while_we_clean",
        "tests/test_removal.py::test_a_folder_that_was_moved_away_takes_nothing_with_it",
        "tests/test_leftovers.py::test_what_is_not_ours_stays",
    ],
    37: [
        "rust/tests/merge_cases.rs::no_name_comes_in_that_no_filesystem_has",
        "rust/src/output/mod.rs::no_writer_cuts_what_it_has_no_room_for",
        "tests/test_hostile_layers.py::test_a_long_name_in_a_links_target",
    ],
    40: [
        "rust/src/merge/tests.rs::no_map_has_a_hash_that_can_be_guessed",
        "rust/src/output/ext4/xattr.rs::the_work_for_attributes_grows_with_their_number_alone",
    ],
    41: [
        "tests/test_hostile_layers.py::test_the_metadata_of_all_layers_have_one_bound",
        "tests/test_hostile_layers.py::test_what_repeats_counts_once",
        "rust/src/budget.rs::the_entry_that_is_too_much_is_named",
    ],
    42: [
        "rust/src/merge/tests.rs::ways_that_are_walked_again_and_again_count",
        "rust/src/merge/tests.rs::a_long_way_is_walked_once_for_entries_in_a_row",
        "rust/src/merge/tests.rs::whiteouts_far_below_cost_their_paths",
    ],
    43: [
        HOSTILE + "test_a_whiteout_below_a_link_to_the_outside_removes_nothing_there",
        "rust/src/merge/tests.rs::whiteouts_far_below_cost_their_paths",
    ],
    44: [
        "tests/test_end_to_end.py::test_every_format_holds_umocis_tree",
        "tests/test_same_bytes.py::test_the_same_bytes_for_any_number_of_threads_on_any_day",
    ],
    45: [
        "tests/test_end_to_end.py::test_every_format_holds_umocis_tree",
        "tests/test_losses.py::test_exactly_what_is_lost_is_said",
    ],
    46: [
        "rust/tests/tar_fates/main.rs::every_row_ends_as_it_should",
        "rust/tests/tar_fates/types.rs::a_size_on_each_type_without_data",
    ],
}


@cache
def names_in(file: str) -> frozenset[str]:
    """Names of the tests in a file of either language; empty when there is no such file."""
    path = ROOT / file
    if not path.exists():
        return frozenset()
    if path.suffix == ".py":
        functions = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)]
        return frozenset(function.name for function in functions if function.name.startswith("test_"))
    return frozenset(re.findall(r"#\[test\](?:\s*#\[[^\]]*\])*\s*(?:pub )?fn (\w+)", path.read_text()))


@pytest.mark.parametrize("row", sorted(THREATS.keys() | TESTS.keys()))
def test_every_threat_is_held_by_tests_that_are_there(row: int) -> None:
    assert THREATS[row]
    assert TESTS[row]
    for test in TESTS[row]:
        file, _, name = test.partition("::")
        assert name in names_in(file), f"{test} is not there"


def test_the_page_on_security_has_every_threat_and_its_tests() -> None:
    """Number, what went wrong, what is done here, and the tests, each of which is there."""
    page = (ROOT / "docs/security.md").read_text()
    table = page.partition("## What went wrong elsewhere")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:2] == "| "]
    rows = [cells for cells in rows if cells[0].isdigit()]
    assert {int(cells[0]): cells[1] for cells in rows} == THREATS
    assert {int(cells[0]): re.findall(r"`([^`]+)`", cells[3]) for cells in rows} == TESTS
    assert all(cells[2] for cells in rows)


def test_every_test_that_the_page_on_security_names_is_there() -> None:
    page = (ROOT / "docs/security.md").read_text()
    named = re.findall(r"`((?:tests|rust)/[\w/]+\.(?:py|rs)::\w+)`", page)
    assert len(named) > 100
    assert [test for test in named if test.partition("::")[2] not in names_in(test.partition("::")[0])] == []


def test_every_test_that_names_a_threat_is_in_the_table() -> None:
    """`test_threat_14_...` and the like belong to row 14."""
    for path in (ROOT / "tests").glob("test_*.py"):
        for name in names_in(f"tests/{path.name}"):
            if found := re.match(r"test_threat_(\d+)_", name):
                assert int(found[1]) in THREATS
