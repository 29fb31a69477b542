package main

import (
	"bufio"
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/santhosh-tekuri/jsonschema/v5"
)

// A copy of the contract, pinned: a later minor of the same major still fits it.
//
//go:embed stock.changed.v1.json
var schemaText []byte

// change is what this worker keeps of one event.
type change struct {
	SKU       string `json:"sku"`
	Available int64  `json:"available"`
	Version   int64  `json:"version"`
}

// envelope is what this worker reads of a CloudEvent; other attributes may come, and are ignored.
type envelope struct {
	Type          string          `json:"type"`
	Subject       string          `json:"subject"`
	EntityVersion *int64          `json:"entityversion"`
	Data          json.RawMessage `json:"data"`
}

// worker knows the newest change of each SKU and writes it to a journal.
type worker struct {
	path   string
	schema *jsonschema.Schema
	newest map[string]change
}

func newWorker(path string) (*worker, error) {
	schema, err := compile()
	if err != nil {
		return nil, err
	}
	made := &worker{path: path, schema: schema, newest: map[string]change{}}
	return made, made.load()
}

func compile() (*jsonschema.Schema, error) {
	compiler := jsonschema.NewCompiler()
	compiler.AssertFormat = true
	if err := compiler.AddResource("stock.changed.v1.json", bytes.NewReader(schemaText)); err != nil {
		return nil, err
	}
	return compiler.Compile("stock.changed.v1.json")
}

// read is the change in a message. An error means that the message will never be one.
func (w *worker) read(body []byte) (change, error) {
	var event envelope
	if err := json.Unmarshal(body, &event); err != nil {
		return change{}, err
	}
	if event.Type != "shop."+key || event.EntityVersion == nil {
		return change{}, fmt.Errorf("not a %s: %q", key, event.Type)
	}
	var data any
	numbers := json.NewDecoder(bytes.NewReader(event.Data))
	numbers.UseNumber() // a float64 would round what is above 2^53
	if err := numbers.Decode(&data); err != nil {
		return change{}, err
	}
	if err := w.schema.Validate(data); err != nil {
		return change{}, err
	}
	found := change{Version: *event.EntityVersion}
	if err := json.Unmarshal(event.Data, &found); err != nil {
		return change{}, err
	}
	found.Version = *event.EntityVersion
	return found, nil
}

// commit makes changes durable. Older versions and repetitions change nothing.
func (w *worker) commit(changes []change) error {
	var fresh []change
	known := map[string]int64{}
	for _, each := range changes {
		last, told := known[each.SKU]
		if !told {
			last = -1
			if newest, kept := w.newest[each.SKU]; kept {
				last = newest.Version
			}
		}
		if each.Version > last {
			known[each.SKU] = each.Version
			fresh = append(fresh, each)
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	if err := w.append(fresh); err != nil {
		return err
	}
	for _, each := range fresh {
		w.newest[each.SKU] = each
	}
	return nil
}

func (w *worker) append(changes []change) error {
	var lines bytes.Buffer
	encoder := json.NewEncoder(&lines)
	for _, each := range changes {
		if err := encoder.Encode(each); err != nil {
			return err
		}
	}
	journal, err := os.OpenFile(w.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer journal.Close()
	if _, err := journal.Write(lines.Bytes()); err != nil {
		return err
	}
	return journal.Sync()
}

// load reads the journal; a last line that was cut off was never acknowledged, and comes again.
func (w *worker) load() error {
	journal, err := os.OpenFile(w.path, os.O_RDWR, 0o600)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer journal.Close()
	lines := bufio.NewReader(journal)
	var whole int64
	for {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return journal.Truncate(whole)
		}
		if err != nil {
			return err
		}
		var found change
		if err := json.Unmarshal(line, &found); err != nil {
			return fmt.Errorf("%s is no journal: %w", w.path, err)
		}
		w.newest[found.SKU] = found
		whole += int64(len(line))
	}
}
