"""Exit statuses beside 0; the gate has more (`mtp_code.cli.gating`)."""

BAD_INPUT, MACHINE_LACKS, BUG, GO_ON_LATER, INTERRUPTED = 2, 3, 70, 75, 130
