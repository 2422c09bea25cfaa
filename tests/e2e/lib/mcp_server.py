"""An MCP server for tests, standard library only: over HTTP (JSON or event-stream answers), or over pipes."""

import http.server
import json
import sys
import threading

TOOL = {"name": "shout", "description": "Says it louder",
        "inputSchema": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}}


def answer(message, tool, calls):
    """The result of a request."""
    if message["method"] == "initialize":
        return {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": {"name": "t", "version": "1"}}
    if message["method"] == "tools/list":
        return {"tools": [tool]}
    calls.append(message["params"])
    return {"content": [{"type": "text", "text": message["params"]["arguments"]["text"].upper()}]}


class McpServer:
    def __init__(self, events=False):
        self.tool, self.calls, self.events, self.goodbyes = dict(TOOL), [], events, 0
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def reply(self, status, kind, body, **fields):
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                for name, value in fields.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self):
                message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if "id" not in message:
                    return self.reply(202, "text/plain", b"")
                if message["method"] != "initialize" and self.headers["Mcp-Session-Id"] != "one":
                    return self.reply(404, "text/plain", b"no such session")
                text = json.dumps({"jsonrpc": "2.0", "id": message["id"],
                                   "result": answer(message, outer.tool, outer.calls)})
                if outer.events:
                    body = f"event: message\nid: 1\ndata: \n\nevent: message\ndata: {text}\n\n".encode()
                    return self.reply(200, "text/event-stream", body, Mcp_Session_Id="one")
                return self.reply(200, "application/json", text.encode(), Mcp_Session_Id="one")

            def do_DELETE(self):
                outer.goodbyes += 1
                self.reply(200, "text/plain", b"")

            def log_message(self, *args):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/mcp"


def serve_pipes():
    calls = []
    for line in sys.stdin:
        message = json.loads(line)
        if "id" in message:
            print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": answer(message, TOOL, calls)}), flush=True)


if __name__ == "__main__":
    serve_pipes()
