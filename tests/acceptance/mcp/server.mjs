// The official SDK's server with one tool: `node server.mjs stdio`, or `node server.mjs events|json PORT`.
import { randomUUID, webcrypto } from "node:crypto";
import { createServer } from "node:http";
import { Server } from "@modelcontextprotocol/sdk/server/index.js";
import { StdioServerTransport } from "@modelcontextprotocol/sdk/server/stdio.js";
import { StreamableHTTPServerTransport } from "@modelcontextprotocol/sdk/server/streamableHttp.js";
import { CallToolRequestSchema, ListToolsRequestSchema } from "@modelcontextprotocol/sdk/types.js";

globalThis.crypto ??= webcrypto; // the SDK takes it as given; node has it since 19

let description = "Says it louder";
const schema = { type: "object", properties: { text: { type: "string" } }, required: ["text"] };

function make() {
  const server = new Server({ name: "shouter", version: "1" }, { capabilities: { tools: { listChanged: true } } });
  server.setRequestHandler(ListToolsRequestSchema, async ({ params }) =>
    params?.cursor ? { tools: [{ name: "shout", description, inputSchema: schema }] }
                   : { tools: [{ name: "other", inputSchema: { type: "object" } }], nextCursor: "2" });
  server.setRequestHandler(CallToolRequestSchema, async ({ params }) => {
    const text = String(params.arguments.text);
    if (text === "fail") return { content: [{ type: "text", text: "I will not" }], isError: true };
    if (text === "throw") throw new Error("thrown");
    return { content: [{ type: "text", text: text.toUpperCase() }] };
  });
  return server;
}

const [mode, port] = process.argv.slice(2);
if (mode === "stdio") {
  await make().connect(new StdioServerTransport());
} else {
  const transports = new Map();
  createServer(async (request, response) => {
    if (request.url === "/change") {
      description += ".";
      return response.end();
    }
    if (request.url === "/sessions") return response.end(String(transports.size));
    let transport = transports.get(request.headers["mcp-session-id"]);
    if (!transport) {
      transport = new StreamableHTTPServerTransport({
        sessionIdGenerator: randomUUID,
        enableJsonResponse: mode === "json",
        onsessioninitialized: (id) => transports.set(id, transport),
        onsessionclosed: (id) => transports.delete(id),
      });
      await make().connect(transport);
    }
    await transport.handleRequest(request, response);
  }).listen(Number(port), "127.0.0.1", () => console.log("ready"));
}
