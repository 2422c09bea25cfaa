"""Looks an invoice up: {"invoiceId"} on stdin, what is known of it as JSON on stdout."""
import json
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))


def main():
    wanted = json.load(sys.stdin)["invoiceId"].strip().upper()
    with open(os.path.join(HERE, "invoices.json"), encoding="utf-8") as f:
        invoices = json.load(f)
    json.dump(invoices.get(wanted, {"error": f"there is no invoice {wanted}"}), sys.stdout)


main()
