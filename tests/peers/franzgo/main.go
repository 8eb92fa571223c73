// Consume and produce with franz-go: copies one topic from a Kafka cluster to another, record by record.
//
// The benchmark runs it beside the source service, as the fastest loop that a client library offers. It keeps
// partitions, keys, values, headers and timestamps. It keeps no position: it starts at the first record.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	// A fetch brings this much of one partition at most, in bytes. The library's default is 1 MiB.
	fetchPartitionBytes = 4 << 20
	// Records that wait for their acknowledgement. The library's default is 50,000: too few for small records in
	// batches of 1 MB, five of them in flight.
	bufferedRecordsMax = 400_000
	// Bytes of keys, values and headers that wait for their acknowledgement.
	bufferedBytesMax = 256 << 20
	// The garbage collector runs when the heap has grown by this many percent. The default is 100: more memory is
	// traded for less CPU.
	heapGrowthPercent = 400
	// Requests in flight at the end are answered within this time, or the run has failed.
	flushTimeout = 2 * time.Minute
)

type settings struct {
	source, target, topic, targetTopic, compression string
	partitions, batchBytes                          int
	records                                         uint64
	linger, limit                                   time.Duration
	stay                                            bool
}

func parse() settings {
	var s settings
	flag.StringVar(&s.source, "source", "", "bootstrap servers of the source, comma-separated")
	flag.StringVar(&s.target, "target", "", "bootstrap servers of the target, comma-separated")
	flag.StringVar(&s.topic, "topic", "", "topic on the source")
	flag.StringVar(&s.targetTopic, "target-topic", "", "topic on the target; it must exist")
	flag.IntVar(&s.partitions, "partitions", 1, "partitions of both topics")
	flag.Uint64Var(&s.records, "records", 0, "end after this many records; 0: only the time ends it")
	flag.DurationVar(&s.limit, "limit", 0, "end after this time, for example 30s; 0: only the records end it")
	flag.DurationVar(&s.linger, "linger", 5*time.Millisecond, "how long the producer waits for more records")
	flag.IntVar(&s.batchBytes, "batch-bytes", 1_000_000, "largest batch that the producer builds, before compression")
	flag.StringVar(&s.compression, "compression", "none", "codec of the producer: none, gzip, snappy, lz4 or zstd")
	flag.BoolVar(&s.stay, "stay", false, "stay until killed, so that CPU and memory can be read")
	flag.Parse()
	return s
}

func codec(name string) (kgo.CompressionCodec, error) {
	switch name {
	case "none":
		return kgo.NoCompression(), nil
	case "gzip":
		return kgo.GzipCompression(), nil
	case "snappy":
		return kgo.SnappyCompression(), nil
	case "lz4":
		return kgo.Lz4Compression(), nil
	case "zstd":
		return kgo.ZstdCompression(), nil
	}
	return kgo.CompressionCodec{}, fmt.Errorf("-compression %s: use none, gzip, snappy, lz4 or zstd", name)
}

// memory hands the slices of fetched records, and of what was decompressed, from one batch to the next.
type memory struct {
	records, bytes sync.Pool
}

func (m *memory) GetRecords(n int) []kgo.Record {
	if kept, ok := m.records.Get().(*[]kgo.Record); ok && cap(*kept) >= n {
		return (*kept)[:n]
	}
	return make([]kgo.Record, n)
}

func (m *memory) PutRecords(records []kgo.Record) { m.records.Put(&records) }

func (m *memory) GetDecompressBytes(compressed []byte, _ kgo.CompressionCodecType) []byte {
	if kept, ok := m.bytes.Get().(*[]byte); ok {
		return *kept
	}
	return make([]byte, 0, 4*len(compressed))
}

func (m *memory) PutDecompressBytes(bytes []byte) { m.bytes.Put(&bytes) }

func consumer(s settings) (*kgo.Client, error) {
	offsets := make(map[int32]kgo.Offset, s.partitions)
	for partition := range int32(s.partitions) {
		offsets[partition] = kgo.NewOffset().AtStart()
	}
	return kgo.NewClient(
		kgo.SeedBrokers(strings.Split(s.source, ",")...),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{s.topic: offsets}),
		kgo.FetchMaxPartitionBytes(fetchPartitionBytes),
		kgo.WithPools(&memory{}),
		kgo.DisableClientMetrics(),
	)
}

// producer waits for all in-sync replicas and is idempotent: both are the library's defaults.
func producer(s settings) (*kgo.Client, error) {
	compression, err := codec(s.compression)
	if err != nil {
		return nil, err
	}
	return kgo.NewClient(
		kgo.SeedBrokers(strings.Split(s.target, ",")...),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchCompression(compression),
		kgo.ProducerBatchMaxBytes(int32(s.batchBytes)),
		kgo.ProducerLinger(s.linger),
		kgo.MaxBufferedRecords(bufferedRecordsMax),
		kgo.MaxBufferedBytes(bufferedBytesMax),
		kgo.DisableClientMetrics(),
	)
}

// copyRecords returns how many records the target acknowledged. The end of the time limit is no error.
func copyRecords(s settings) (uint64, error) {
	ctx := context.Background()
	if s.limit > 0 {
		limited, cancel := context.WithTimeout(ctx, s.limit)
		defer cancel()
		ctx = limited
	}
	from, err := consumer(s)
	if err != nil {
		return 0, err
	}
	defer from.Close()
	to, err := producer(s)
	if err != nil {
		return 0, err
	}
	defer to.Close()
	var acknowledged atomic.Uint64
	var failure atomic.Pointer[error]
	promise := func(record *kgo.Record, err error) {
		switch {
		case err == nil:
			acknowledged.Add(1)
		case !errors.Is(err, context.DeadlineExceeded):
			failure.CompareAndSwap(nil, &err)
		}
		record.Recycle()
	}
	sent := uint64(0)
	done := func() bool { return s.records > 0 && sent >= s.records }
	for !done() && ctx.Err() == nil && failure.Load() == nil {
		fetches := from.PollFetches(ctx)
		for _, failed := range fetches.Errors() {
			if !errors.Is(failed.Err, context.DeadlineExceeded) {
				return acknowledged.Load(), fmt.Errorf("fetching %s-%d: %w", failed.Topic, failed.Partition, failed.Err)
			}
		}
		fetches.EachRecord(func(record *kgo.Record) {
			if done() {
				record.Recycle()
				return
			}
			// The fetched record itself is produced: its partition, key, value, headers and timestamp stay.
			record.Topic = s.targetTopic
			to.Produce(ctx, record, promise)
			sent++
		})
	}
	flushing, cancel := context.WithTimeout(context.Background(), flushTimeout)
	defer cancel()
	flushed := to.Flush(flushing)
	if failed := failure.Load(); failed != nil {
		return acknowledged.Load(), fmt.Errorf("producing to %s: %w", s.targetTopic, *failed)
	}
	if flushed != nil {
		return acknowledged.Load(), fmt.Errorf("not every record is acknowledged after %v: %w", flushTimeout, flushed)
	}
	return acknowledged.Load(), nil
}

func main() {
	s := parse()
	if s.source == "" || s.target == "" || s.topic == "" || s.targetTopic == "" || s.records == 0 && s.limit == 0 {
		log.Fatal("-source, -target, -topic, -target-topic and one of -records and -limit are needed; see -help")
	}
	debug.SetGCPercent(heapGrowthPercent)
	began := time.Now()
	records, err := copyRecords(s)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("records=%d seconds=%.3f\n", records, time.Since(began).Seconds())
	if s.stay {
		// Not an empty select: the runtime calls it a deadlock once the library's last goroutine has ended.
		for {
			time.Sleep(time.Hour)
		}
	}
}
