from mtp_code.cli import main

main()
