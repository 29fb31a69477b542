"""The mappings of the two indices: what Elasticsearch keeps of a document. Knows no client."""

KEYWORD = {"type": "keyword"}
WORDS = {"type": "text", "analyzer": "english"}
LONG = {"type": "long"}
BOOLEAN = {"type": "boolean"}
SHOWN = {"type": "object", "enabled": False}  # carried along, never searched

# A currency is a field of its own under `price`; the limit keeps a flood of them out of the mapping
PRICE = {"type": "object", "dynamic": True}
PRICE_FIELDS = [{"minor": {"path_match": "variants.price.*", "mapping": LONG}}]

SETTINGS = {
    "number_of_shards": 1,
    "auto_expand_replicas": "0-1",
    "refresh_interval": "250ms",  # the longest that a change stays unseen
    "mapping.total_fields.ignore_dynamic_beyond_limit": True,
}

OFFERS = {
    "dynamic": "strict",
    "properties": {
        "sku": KEYWORD,
        "products": KEYWORD,
        "stock_version": LONG,
        "available": LONG,
        "price_version": LONG,
        "price": SHOWN,
        "was": SHOWN,
    },
}

PRODUCTS = {
    "dynamic": "strict",
    "dynamic_templates": PRICE_FIELDS,
    "properties": {
        "product_id": KEYWORD,
        "catalog_version": LONG,
        "withdrawn": BOOLEAN,
        "slug": KEYWORD,
        "name": {**KEYWORD, "fields": {"text": WORDS}},
        "name_sort": KEYWORD,
        "description": WORDS,
        "brand": {**KEYWORD, "fields": {"text": WORDS}},
        "categories": {"properties": {"slug": KEYWORD, "path": KEYWORD, "facet": KEYWORD}},
        "attributes": {"properties": {"code": KEYWORD, "value": KEYWORD}},
        "image": SHOWN,
        "published_at": {"type": "date"},
        "variants": {
            "type": "nested",
            "properties": {
                "sku": KEYWORD,
                "sku_normalised": KEYWORD,
                "options": SHOWN,
                "stock_version": LONG,
                "available": LONG,
                "in_stock": BOOLEAN,
                "price_version": LONG,
                "price": PRICE,
                "was": SHOWN,
            },
        },
    },
}
