"""The page for people: what can be asked, and a form to try it. It loads nothing from elsewhere."""

import json
from base64 import b64encode
from collections.abc import Mapping
from hashlib import sha256
from html import escape
from typing import Any

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
pre { background: #f4f4f4; padding: 1rem; overflow: auto }
th, td { text-align: left; padding: .2rem 1rem .2rem 0; vertical-align: top }
@media (prefers-color-scheme: dark) {
  body { background: #111; color: #ddd } pre { background: #222 } a { color: #8bf }
}
"""
SCRIPT = """
const [form, out] = ["form", "output"].map(name => document.querySelector(name));
form.onsubmit = async event => {
  event.preventDefault();
  const token = form.token.value, body = new FormData();
  for (const file of form.image.files) body.append("image", file);
  out.textContent = "...";
  try {
    const headers = token ? {Authorization: "Bearer " + token} : {};
    const answer = await fetch("predict", {method: "POST", body, headers});
    out.textContent = answer.status + " " + JSON.stringify(await answer.json(), null, 1);
  } catch (error) { out.textContent = String(error); }
};
"""


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


# only this very script and this very style, and requests to this server
CONTENT_POLICY = (
    f"default-src 'none'; script-src {_hash(SCRIPT)}; style-src {_hash(STYLE)}; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def write_docs_page(api: Mapping[str, Any]) -> str:
    """Write the page from the description of the paths."""
    rows = "".join(
        f"<tr><td><code>{method.upper()} {escape(path)}</code><td>{escape(operation['summary'])}"
        for path, methods in api["paths"].items()
        for method, operation in methods.items()
    )
    predict = api["paths"]["/predict"]["post"]
    answers = "".join(
        f"<tr><td>{status}<td>{escape(answer['description'])}"
        for status, answer in sorted(predict["responses"].items())
    )
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>SqueezeTune</title><style>{STYLE}</style>
<h1>SqueezeTune</h1>
<p>{escape(api["info"]["description"])} For programs: <a href="openapi.json">openapi.json</a>.</p>
<table>{rows}</table>
<h2>Try it</h2>
<form><p><input type="file" name="image" multiple required accept="image/*" aria-label="Photos">
<input type="password" name="token" placeholder="token, if one is asked for" autocomplete="off" aria-label="Token">
<button>Classify</button></form>
<pre><output>The answer comes here.</output></pre>
<h2>From a terminal</h2>
<pre>{escape(_EXAMPLES)}</pre>
<h2>Answers to POST /predict</h2>
<p>{escape(predict["description"])}</p>
<table>{answers}</table>
<p>Refusals have one shape:</p>
<pre>{escape(json.dumps({"error": {"code": "too-large", "message": "...", "hint": "..."}}))}</pre>
<script>{SCRIPT}</script></html>
"""


_EXAMPLES = """curl -F image=@photo.jpg ADDRESS/predict
curl -F image=@a.jpg -F image=@b.png ADDRESS/predict
curl -H 'Content-Type: image/jpeg' --data-binary @photo.jpg ADDRESS/predict
curl -H 'Authorization: Bearer TOKEN' -F image=@photo.jpg ADDRESS/predict"""
