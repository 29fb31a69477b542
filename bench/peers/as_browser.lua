-- Asks as every browser does; Varnish unpacks for those who cannot.
wrk.headers["Accept-Encoding"] = "gzip"
