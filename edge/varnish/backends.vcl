# Where the four services and the purger are; filled in at start. Knows no route.

probe alive {
    .url = "/healthz";
    .interval = 3s;
    .timeout = 2s;
    .window = 4;
    .threshold = 2;
    .initial = 2;
}

backend catalog {
    .host = "@CATALOG_HOST@";
    .port = "@CATALOG_PORT@";
    .probe = alive;
    .connect_timeout = 1s;
    .first_byte_timeout = 30s;
    .between_bytes_timeout = 10s;
}

backend stock {
    .host = "@STOCK_HOST@";
    .port = "@STOCK_PORT@";
    .probe = alive;
    .connect_timeout = 1s;
    .first_byte_timeout = 30s;
    .between_bytes_timeout = 10s;
}

backend search {
    .host = "@SEARCH_HOST@";
    .port = "@SEARCH_PORT@";
    .probe = alive;
    .connect_timeout = 1s;
    .first_byte_timeout = 30s;
    .between_bytes_timeout = 10s;
}

backend checkout {
    .host = "@CHECKOUT_HOST@";
    .port = "@CHECKOUT_PORT@";
    .probe = alive;
    .connect_timeout = 1s;
    .first_byte_timeout = 30s;
    .between_bytes_timeout = 10s;
}

acl purgers {
    @PURGERS@;
}
