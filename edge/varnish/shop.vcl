# The cache: stores what a public route's origin asks to have stored, and nothing else.
# Needs the backends catalog, stock, search, checkout and the acl purgers; knows no address.

import std;
import xkey;

include "./guards.vcl";
include "./routes.vcl";

sub vcl_recv {
    call guard_purge;
    call guard_request;
    call forget_claims;
    call route;
    # A form is compared with the name that its page was asked for; a page for all repeats none.
    if (req.http.X-Edge-Kind != "private") {
        unset req.http.X-Forwarded-Host;
    }

    # A page is put together from fragments only: an include cannot reach an API or another page.
    if (req.esi_level > 0 && req.url !~ "^/fragments/") {
        return (synth(404));
    }
    if (req.http.X-Edge-Kind != "public" || req.http.Authorization
        || (req.method != "GET" && req.method != "HEAD")) {
        return (pass);
    }

    unset req.http.Cookie;
    call tidy_query;
    # On a restart the origin has just failed: then, as when it is sick, an hour old is good.
    if (req.restarts > 0 || !std.healthy(req.backend_hint)) {
        set req.grace = 1h;
    } elsif (req.backend_hint == search) {
        # No event purges results: the old price would be shown once more.
        set req.grace = 0s;
    } else {
        set req.grace = 10s;
    }
    return (hash);
}

# One page has one key, whatever an advertisement appended to its address.
sub tidy_query {
    if (req.url ~ "\?") {
        set req.url = regsuball(req.url, "([?&])(utm_[^=&]*|gclid|dclid|gbraid|wbraid|gad_[^=&]*|"
            + "fbclid|msclkid|twclid|ttclid|yclid|igshid|srsltid|mc_[ce]id|_ga|_gl)(=[^&]*)?(?=&|$)",
            "\1");
        set req.url = regsub(regsub(regsuball(req.url, "&+", "&"), "\?&", "?"), "[?&]$", "");
        set req.url = std.querysort(req.url);
    }
}

sub vcl_hash {
    # Host is not a part: nginx serves one shop and writes a fixed one.
    hash_data(req.url);
    return (lookup);
}

# A plain hit, which is nearly every request, is told by the absence of this header.
sub vcl_hit {
    if (obj.ttl <= 0s) {
        set req.http.X-Edge-Cache = "stale";
    } else {
        unset req.http.X-Edge-Cache;
    }
}

sub vcl_miss {
    if (req.restarts > 0) {
        return (synth(503));
    }
    set req.http.X-Edge-Cache = "miss";
}

sub vcl_pass {
    set req.http.X-Edge-Cache = "pass";
}

sub vcl_backend_fetch {
    unset bereq.http.X-Edge-Cache;
    # Varnish adds its own client, which is nginx, to what nginx wrote.
    set bereq.http.X-Forwarded-For = regsub(bereq.http.X-Forwarded-For, ", [^,]*$", "");
    if (bereq.http.X-Edge-Kind != "api") {
        set bereq.http.Surrogate-Capability = {"edge="ESI/1.0""};
    }
}

sub vcl_backend_response {
    unset beresp.http.Server;
    if (bereq.http.X-Edge-Kind != "api" && beresp.http.Surrogate-Control ~ "ESI/1\.0"
        && beresp.http.Content-Type ~ "^text/html") {
        set beresp.do_esi = true;
    }
    if (bereq.uncacheable) {
        return (deliver);
    }
    # The client side then looks for something stale; delivering would drop what there is.
    if (beresp.status >= 500) {
        return (abandon);
    }
    call lifetime;
    if (beresp.ttl <= 0s) {
        # Remembered, so that requests for what is not stored do not wait for each other.
        set beresp.uncacheable = true;
        set beresp.ttl = 30s;
        return (deliver);
    }
    set beresp.grace = 1h;
    set beresp.keep = 10m;
    if (beresp.http.Content-Type ~ "^(text/|application/(json|javascript))") {
        set beresp.do_gzip = true;
    }
    return (deliver);
}

# How long an answer on a public route is fresh: no time at all unless its origin says so.
sub lifetime {
    set beresp.ttl = 0s;
    if (beresp.status == 200 || beresp.status == 301 || beresp.status == 404) {
        if (beresp.http.Surrogate-Control ~ "(^|[,; ])max-age=[0-9]+") {
            set beresp.ttl = std.duration(regsub(beresp.http.Surrogate-Control,
                "^(?:.*[,; ])?max-age=([0-9]+).*$", "\1s"), 0s);
        } elsif (beresp.http.Cache-Control ~ "(^|[, ])s-maxage=[0-9]+") {
            set beresp.ttl = std.duration(regsub(beresp.http.Cache-Control,
                "^(?:.*[, ])?s-maxage=([0-9]+).*$", "\1s"), 0s);
        }
    }
    if (beresp.http.Set-Cookie || beresp.http.Cache-Control ~ "(?i)private|no-store"
        || beresp.http.Surrogate-Control ~ "(?i)no-store"
        || beresp.http.Vary ~ "(?i)\*|cookie|authorization") {
        set beresp.ttl = 0s;
    }
    # What the purger missed is unseen for no longer than this.
    if (beresp.ttl > 1d) {
        set beresp.ttl = 1d;
    }
    if (bereq.url ~ "^/fragments/products/" && beresp.ttl > 60s) {
        set beresp.ttl = 60s;
    }
    if (beresp.status == 404 && beresp.ttl > 5s) {
        set beresp.ttl = 5s;
    }
}

# All errors are worded in vcl_synth.
sub vcl_backend_error {
    return (abandon);
}

sub vcl_deliver {
    # A fragment that failed is left out; its error would otherwise stand in the page.
    if (req.esi_level > 0 && resp.status != 200) {
        return (synth(resp.status));
    }
    # A page of fragments has no validator: a fragment may change while the page does not.
    if (resp.http.Surrogate-Control ~ "ESI/1\.0") {
        unset resp.http.ETag;
        unset resp.http.Last-Modified;
    }
    if (req.http.X-Edge-Kind == "private" && !resp.http.Cache-Control) {
        set resp.http.Cache-Control = "private, no-store";
    }
    if (req.http.X-Edge-Kind == "api" && resp.http.Location ~ "^/") {
        set resp.http.Location = "/api" + resp.http.Location;
    }
    unset resp.http.Surrogate-Control;
    unset resp.http.xkey;
    unset resp.http.X-Varnish;
    unset resp.http.Via;
    if (req.http.X-Edge-Cache) {
        set resp.http.X-Cache = req.http.X-Edge-Cache;
    } else {
        set resp.http.X-Cache = "hit";
    }
    return (deliver);
}

sub vcl_synth {
    if (resp.status == 503 && req.restarts == 0 && req.http.X-Edge-Kind == "public"
        && req.http.X-Edge-Cache == "miss") {
        return (restart);
    }
    unset resp.http.Server;
    unset resp.http.X-Varnish;
    unset resp.http.Via;
    set resp.http.Cache-Control = "no-store";
    set resp.http.X-Content-Type-Options = "nosniff";
    set resp.http.X-Cache = "none";
    if (!req.http.X-Request-Id) {
        set req.http.X-Request-Id = req.xid;
    }
    set resp.http.X-Request-Id = req.http.X-Request-Id;
    if (req.esi_level > 0) {
        synthetic("");
        return (deliver);
    }
    if (resp.status == 200) {
        set resp.http.Content-Type = "application/json";
        if (local.socket == "purge") {
            synthetic({"{"purged":"} + req.http.X-Edge-Purged + {"}"});
        } else {
            synthetic({"{"status":"ok" }"});
        }
        return (deliver);
    }
    call word_problem;
    if (req.http.Accept ~ "text/html" && req.url !~ "^/api/") {
        set resp.http.Content-Type = "text/html; charset=utf-8";
        set resp.http.Content-Security-Policy = "default-src 'none'; style-src 'self'";
        synthetic({"<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>"} + req.http.X-Edge-Title + {"</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="stylesheet" href="/static/shop.css"></head>
<body><main><h1>"} + req.http.X-Edge-Title + {"</h1>
<p>You may go <a href="/">to the shop's first page</a> or try again in a moment.</p>
<p><small>"} + resp.http.X-Request-Id + {"</small></p></main></body></html>
"});
    } else {
        set resp.http.Content-Type = "application/problem+json";
        synthetic({"{"type":"urn:shop:problem:"} + req.http.X-Edge-Slug + {"","title":""}
            + req.http.X-Edge-Title + {"","status":"} + resp.status + {","instance":""}
            + resp.http.X-Request-Id + {"" }"});
    }
    return (deliver);
}

# The same slugs and titles as the services use.
sub word_problem {
    if (resp.status == 400) {
        set req.http.X-Edge-Slug = "bad-request";
        set req.http.X-Edge-Title = "The request is not valid HTTP";
        set resp.reason = "Bad Request";
        set resp.http.Connection = "close";
    } elsif (resp.status == 404) {
        set req.http.X-Edge-Slug = "not-found";
        set req.http.X-Edge-Title = "There is no such thing here";
        set resp.reason = "Not Found";
    } elsif (resp.status == 405) {
        set req.http.X-Edge-Slug = "method-not-allowed";
        set req.http.X-Edge-Title = "This path does not know that method";
        set resp.reason = "Method Not Allowed";
        if (local.socket == "purge") {
            set resp.http.Allow = "PURGE";
        } else {
            set resp.http.Allow = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";
        }
    } else {
        # what is left is a service that does not answer, or our own workspace running out
        set resp.status = 503;
        set req.http.X-Edge-Slug = "unavailable";
        set req.http.X-Edge-Title = "Not available just now";
        set resp.reason = "Service Unavailable";
        set resp.http.Retry-After = "2";
    }
}
