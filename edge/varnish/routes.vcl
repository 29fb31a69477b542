# Which service answers a path, and whether the answer is for all (public), for one (private),
# or data (api). Only public routes are ever looked up in the cache. No caching rule here.

sub route {
    if (req.url ~ "^/($|\?|[pc]/|fragments/(nav|jumbotron|footer)($|\?))") {
        set req.http.X-Edge-Kind = "public";
        set req.backend_hint = catalog;
    } elsif (req.url ~ "^/api/") {
        set req.http.X-Edge-Kind = "api";
        call route_api;
    } elsif (req.url ~ "^/fragments/products/") {
        set req.http.X-Edge-Kind = "public";
        set req.backend_hint = stock;
    } elsif (req.url ~ "^/s($|\?)") {
        set req.http.X-Edge-Kind = "public";
        set req.backend_hint = search;
    } elsif (req.url ~ "^/(cart|checkout|me|sign-in|sign-out)($|[/?])"
        || req.url ~ "^/orders/"
        || req.url ~ "^/fragments/cart($|\?)") {
        set req.http.X-Edge-Kind = "private";
        set req.backend_hint = checkout;
    } elsif (req.url ~ "^/alerts/") {
        set req.http.X-Edge-Kind = "private";
        set req.backend_hint = stock;
    } elsif (req.url ~ "^/healthz($|\?)") {
        return (synth(200));
    } else {
        return (synth(404));
    }
}

# The query goes to the service as it came: it alone knows which parameters there are.
sub route_api {
    if (req.url ~ "^/api/(catalog|stock|search|checkout)/(openapi\.json|docs)($|[/?])") {
        if (req.url ~ "^/api/catalog/") {
            set req.backend_hint = catalog;
        } elsif (req.url ~ "^/api/stock/") {
            set req.backend_hint = stock;
        } elsif (req.url ~ "^/api/search/") {
            set req.backend_hint = search;
        } else {
            set req.backend_hint = checkout;
        }
        set req.url = regsub(req.url, "^/api/[a-z]+", "");
    } else {
        if (req.url ~ "^/api/products/[^/?]+/(stock|prices|ledger)($|[/?])"
            || req.url ~ "^/api/(stock|prices|reservations|alerts)($|[/?])") {
            set req.backend_hint = stock;
        } elsif (req.url ~ "^/api/(products|categories|imports)($|[/?])") {
            set req.backend_hint = catalog;
        } elsif (req.url ~ "^/api/(search|suggest)($|[/?])") {
            set req.backend_hint = search;
        } elsif (req.url ~ "^/api/(carts|coupons|orders|payments|me|webhooks)($|[/?])") {
            set req.backend_hint = checkout;
        } else {
            return (synth(404));
        }
        set req.url = regsub(req.url, "^/api", "");
    }
}
