// Bundles the page that draws a dashboard.
import { build } from "esbuild";

const inline = Object.fromEntries(["svg", "ttf", "woff", "woff2", "png", "gif"].map((kind) => [`.${kind}`, "dataurl"]));

await build({
  entryPoints: ["page.jsx"],
  outfile: "build/page.js",
  bundle: true,
  minify: true,
  format: "iife",
  target: "es2022",
  jsx: "automatic",
  define: { "process.env.NODE_ENV": '"production"', global: "globalThis" },
  loader: inline,
  logLevel: "error",
});
