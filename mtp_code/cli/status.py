"""Exit statuses beside 0; the gate has more (`mtp_code.cli.gating`)."""

BAD_INPUT, MACHINE_LACKS, BUG, GO_ON_LATER = 2, 3, 70, 75
