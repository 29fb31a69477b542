# The VCL that varnishd loads: where the services are, then the rules. Decides nothing itself.
vcl 4.1;

include "./backends.vcl";
include "./shop.vcl";
