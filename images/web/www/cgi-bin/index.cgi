#!/bin/sh
# The page for people; httpd calls it for / because there is no index.html.
. ./task  # httpd starts a page in its own directory

short=${task##*/}
hash=$(printf %s "$task" | md5sum | cut -c 1-4)
colour=$((0x$hash % 360))  # a task keeps its colour

printf 'Content-Type: text/html; charset=utf-8\r\nCache-Control: no-store\r\n\r\n'
cat <<HTML
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>${family:-web} on ${instance##*/}</title>
<style>
  body { font: 16px/1.5 system-ui, sans-serif; margin: 0; min-height: 100vh; display: grid; place-items: center;
         background: hsl($colour 60% 94%); color: hsl($colour 40% 16%) }
  main { background: #fff; border-radius: 1rem; padding: 2rem 2.5rem; border-top: .5rem solid hsl($colour 60% 50%);
         box-shadow: 0 1rem 3rem hsl($colour 30% 50% / .25); max-width: 90vw }
  h1   { margin: 0 0 1rem; font-size: 1.4rem }
  dl   { display: grid; grid-template-columns: auto 1fr; gap: .3rem 1.5rem; margin: 0 }
  dt   { color: hsl($colour 15% 45%) }
  dd   { margin: 0; font-family: ui-monospace, monospace; overflow-wrap: anywhere }
</style>
<main>
  <h1>Served by task ${short:-(no task: no metadata endpoint here)}</h1>
  <dl>
    <dt>task</dt><dd>${task:-none}</dd>
    <dt>container instance</dt><dd>${instance:-none}</dd>
    <dt>cluster</dt><dd>${cluster:-none}</dd>
    <dt>task definition</dt><dd>${family:-none}:${revision:-0}</dd>
    <dt>availability zone</dt><dd>${zone:-none}</dd>
    <dt>host</dt><dd>$host</dd>
  </dl>
</main>
</html>
HTML
