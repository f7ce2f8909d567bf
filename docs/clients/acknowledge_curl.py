"""Acknowledges for a hook, over TLS with a client certificate, by libcurl (pycurl).

Debian's and Ubuntu's python3-pycurl is libcurl with GnuTLS.
"""
import io
import json
import os
import sys

import pycurl

directory = os.environ.get("KRAKE_CERT", "/etc/krake_cert")
body = json.dumps({"token": os.environ["KRAKE_TOKEN"]})
answer = io.BytesIO()

curl = pycurl.Curl()
curl.setopt(pycurl.URL, os.environ["KRAKE_COMPLETE_URL"])
curl.setopt(pycurl.CAINFO, f"{directory}/ca-bundle.pem")
# Key and certificate in one file.
curl.setopt(pycurl.SSLCERT, f"{directory}/bundle.pem")
curl.setopt(pycurl.SSLKEY, f"{directory}/bundle.pem")
curl.setopt(pycurl.CUSTOMREQUEST, "PUT")
curl.setopt(pycurl.POSTFIELDS, body)
curl.setopt(pycurl.WRITEDATA, answer)
curl.setopt(pycurl.TIMEOUT, 30)
curl.perform()
status = curl.getinfo(pycurl.RESPONSE_CODE)
print(status, answer.getvalue().decode())
sys.exit(status != 200)
