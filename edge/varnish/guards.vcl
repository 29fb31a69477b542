# What is refused before a route is looked at, and whose word is not taken. Knows no service.

sub guard_purge {
    # Behind nginx every client has nginx's address: so only this listener purges,
    # and it does nothing else.
    if (local.socket == "purge") {
        if (req.method != "PURGE" || client.ip !~ purgers) {
            return (synth(405));
        }
        if (req.http.xkey-purge) {
            set req.http.X-Edge-Purged = xkey.purge(req.http.xkey-purge);
        } elsif (req.http.xkey-softpurge) {
            set req.http.X-Edge-Purged = xkey.softpurge(req.http.xkey-softpurge);
        } else {
            return (synth(400));
        }
        return (synth(200));
    }
}

sub guard_request {
    # VSV00018: an absolute URI would be stored under a key that others ask for.
    if (req.url !~ "^/") {
        return (synth(400));
    }
    if (req.http.Transfer-Encoding && req.http.Content-Length) {
        return (synth(400));
    }
    if (req.method == "GET" || req.method == "HEAD") {
        # A body that is no part of the key could decide what is stored under it.
        if (req.http.Transfer-Encoding || std.integer(req.http.Content-Length, 0) > 0) {
            return (synth(400));
        }
    } elsif (req.method !~ "^(POST|PUT|PATCH|DELETE|OPTIONS)$") {
        return (synth(405));
    }
    # A route is chosen by its path: so a path must read the same here and at the service.
    if (req.url ~ "[.%\\]" && (req.url ~ "(?i)^[^?]*/(\.|%2e){1,2}(/|\?|$)"
        || req.url ~ "(?i)^[^?]*(\\|%5c|%2f|%00)")) {
        return (synth(400));
    }
}

sub forget_claims {
    unset req.http.Forwarded;
    unset req.http.X-Forwarded-Port;
    unset req.http.X-Forwarded-Prefix;
    unset req.http.X-Original-URL;
    unset req.http.X-Rewrite-URL;
    unset req.http.X-HTTP-Method;
    unset req.http.X-HTTP-Method-Override;
    unset req.http.X-Method-Override;
    unset req.http.Proxy;
    unset req.http.Range;
    unset req.http.Upgrade;
    unset req.http.xkey;
    unset req.http.xkey-purge;
    unset req.http.xkey-softpurge;
    unset req.http.Surrogate-Capability;
    unset req.http.X-Edge-Kind;
    unset req.http.X-Edge-Cache;
}
