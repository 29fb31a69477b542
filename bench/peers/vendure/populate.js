// Fills an empty database: twenty products with plenty of stock, three with ten units each.
const fs = require('fs');
const path = require('path');
const { bootstrap } = require('@vendure/core');
const { populate } = require('@vendure/core/cli');
const { config } = require('./config');

const head = ['name', 'slug', 'description', 'assets', 'facets', 'optionGroups', 'optionValues',
  'sku', 'price', 'taxCategory', 'stockOnHand', 'trackInventory', 'variantAssets', 'variantFacets'];
const row = (name, sku, stock) =>
  [name, sku.toLowerCase(), 'For measuring', '', '', '', '', sku, '19.99', 'standard', stock, 'true', '', ''];
const rows = [head];
for (let n = 1; n <= 20; n++) rows.push(row(`Plenty ${n}`, `PLENTY-${n}`, 1000000));
for (let n = 1; n <= 3; n++) rows.push(row(`Scarce ${n}`, `SCARCE-${n}`, 10));
const file = path.join(__dirname, 'products.csv');
fs.writeFileSync(file, rows.map(cells => cells.join(',')).join('\n') + '\n');

const shop = {
  defaultLanguage: 'en',
  defaultZone: 'Europe',
  countries: [{ name: 'Germany', code: 'DE', zone: 'Europe' }],
  taxRates: [{ name: 'Standard', percentage: 20 }],
  shippingMethods: [{ name: 'Standard', price: 500 }],
  paymentMethods: [{
    name: 'Dummy',
    handler: { code: 'dummy-payment-handler', arguments: [{ name: 'automaticSettle', value: 'true' }] },
  }],
  collections: [],
};

populate(() => bootstrap(config), shop, file)
  .then(app => app.close())
  .then(() => process.exit(0))
  .catch(error => {
    console.error(error);
    process.exit(1);
  });
