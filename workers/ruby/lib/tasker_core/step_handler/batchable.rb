# frozen_string_literal: true

module TaskerCore
  module StepHandler
    module Mixins
      # For handlers of steps of type `batchable` and `batch_worker`, and of those that bring batches together.
      module Batchable
        # For people.
        def capabilities
          super + ["batch"]
        end

        # The batch that this step is to work on; nil where it is no batch worker.
        def get_batch_context(context)
          BatchProcessing::BatchWorkerContext.from_context(context)
        end

        # The result of a batch worker that has nothing to do; nil for one that has. Return it first of all.
        def handle_no_op_worker(context)
          return unless context.step_inputs["is_no_op"]

          success(result: { "no_op" => true, "items_processed" => 0 }, metadata: { "batch_worker" => true })
        end

        # Splits `0...total_items` into at most `worker_count` batches of about the same size. The block may change each
        # one: it is given the batch and its number from 0.
        def create_cursor_configs(total_items, worker_count, &block)
          size = [(total_items.to_f / [worker_count, 1].max).ceil, 1].max
          create_cursor_ranges(total_items, size, &block)
        end

        # Splits `0...total_items` into batches of `batch_size`, larger ones where there would be more than `max_batches`.
        # The last one may be smaller.
        def create_cursor_ranges(total_items, batch_size, max_batches: nil)
          raise ArgumentError, "batch_size must be at least 1" if batch_size < 1

          batch_size = [batch_size, -(-total_items / [max_batches, 1].max)].max if max_batches
          0.step(total_items - 1, batch_size).with_index.map do |start, at|
            ending = [start + batch_size, total_items].min
            batch = { "batch_id" => batch_id(at), "start_cursor" => start, "end_cursor" => ending,
                      "batch_size" => ending - start }
            yield batch, at if block_given?
            batch
          end
        end

        # Makes a batch worker for each batch: of `worker_template_name`, else of the template's only one. A batch is a
        # hash with `start_cursor` and `end_cursor`; batches are numbered where they have no `batch_id`.
        def create_batches_outcome(cursor_configs:, worker_template_name: nil, total_items: nil, metadata: {},
                                   batch_metadata: {})
          return no_batches_outcome(reason: "nothing to split", metadata:) if cursor_configs.empty?

          cursors = cursor_configs.each_with_index.map { |config, at| numbered(config, at) }
          outcome = { "type" => "create_batches", "worker_count" => cursors.size, "cursor_configs" => cursors,
                      "worker_template_name" => worker_template_name, "total_items" => total_items }.compact
          result = { "batch_processing_outcome" => outcome, "worker_count" => cursors.size, "total_items" => total_items }
          result["batch_metadata"] = batch_metadata unless batch_metadata.empty?
          success(result:, metadata: { **metadata, "batch_analyzer" => true })
        end

        # Nothing to do: one batch worker runs that has nothing to do, so that what follows does.
        def no_batches_outcome(reason: "", metadata: {})
          result = { "batch_processing_outcome" => { "type" => "no_batches" }, "reason" => reason }
          success(result:, metadata: { **metadata, "batch_analyzer" => true })
        end

        # The batch is done; what else is given stands in the result.
        def batch_worker_success(items_processed:, items_succeeded: items_processed, items_failed: 0, items_skipped: 0,
                                 results: [], errors: [], last_cursor: nil, batch_metadata: {}, metadata: {}, **more)
          counts = { "items_processed" => items_processed, "items_succeeded" => items_succeeded,
                     "items_failed" => items_failed, "items_skipped" => items_skipped }
          rest = { "results" => results, "errors" => errors, "last_cursor" => last_cursor,
                   "batch_metadata" => batch_metadata }
          success(result: { **counts, **rest, **more }, metadata: { **metadata, "batch_worker" => true })
        end

        # Stores how far the step got and runs it again from there at once, in the same attempt.
        def checkpoint_yield(cursor:, items_processed:, accumulated_results: nil)
          Types::StepHandlerCallResult.checkpoint_yield(cursor:, items_processed:, accumulated_results:)
        end

        # What there is to bring together; of a context or of its results.
        def detect_aggregation_scenario(dependency_results, batchable_step_name, worker_prefix)
          BatchProcessing::BatchAggregationScenario.detect(dependency_results, batchable_step_name, worker_prefix)
        end

        # The result where there was nothing to split.
        def no_batches_aggregation_result(zero_metrics = {})
          success(result: { **zero_metrics, "worker_count" => 0, "scenario" => "no_batches" })
        end

        # Brings the results of batch workers together: with the block, which is given them by step name and answers a
        # hash, else as #aggregate_worker_results.
        def aggregate_batch_worker_results(scenario, zero_metrics: {})
          return no_batches_aggregation_result(zero_metrics) if scenario.no_batches?

          results = scenario.batch_results
          merged = block_given? ? yield(results) : aggregate_worker_results(results.values)
          success(result: { **merged, "worker_count" => results.size, "scenario" => "with_batches" })
        end

        # The sums of what #batch_worker_success counted, and all errors.
        def aggregate_worker_results(results)
          total = ->(key) { results.sum { |result| result[key] || 0 } }
          {
            "total_processed" => total["items_processed"],
            "total_succeeded" => total["items_succeeded"],
            "total_failed" => total["items_failed"],
            "total_skipped" => total["items_skipped"],
            "batch_count" => results.size,
            "errors" => results.flat_map { |result| result["errors"] || [] }
          }
        end

        private

        def batch_id(at)
          format("%03d", at + 1)
        end

        def numbered(config, at)
          raise Errors::ValidationError, "a batch is a hash, not #{config.class}" unless config.respond_to?(:to_h)

          { "batch_id" => batch_id(at), **config.to_h.transform_keys(&:to_s) }
        end
      end
    end

    # A handler of batches.
    class Batchable < Base
      include Mixins::Batchable
    end
  end
end
