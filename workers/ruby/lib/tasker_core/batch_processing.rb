# frozen_string_literal: true

module TaskerCore
  # What batch workers, and the step that brings their results together, find.
  module BatchProcessing
    # The batch that a batch worker is to work on, from `start_cursor` up to and without `end_cursor`, and how far it got.
    class BatchWorkerContext
      attr_reader :cursor, :checkpoint

      class << self
        # The batch of a step; nil where it is no batch worker.
        def from_context(context)
          inputs = context.step_inputs
          new(inputs["cursor"] || {}, inputs["is_no_op"], context.checkpoint) if inputs.key?("cursor")
        end
      end

      def initialize(cursor, is_no_op, checkpoint)
        @cursor = cursor
        @is_no_op = is_no_op
        @checkpoint = checkpoint
      end

      # Numbered 001, 002, …; 000 is the one that has nothing to do.
      def batch_id
        cursor.fetch("batch_id", "000")
      end

      # Where the batch begins.
      def start_cursor
        cursor["start_cursor"]
      end

      # Where the batch ends, exclusive.
      def end_cursor
        cursor["end_cursor"]
      end

      # How many items it has, where the analyzer said so.
      def batch_size
        cursor["batch_size"]
      end

      # Whether there is nothing to do.
      def no_op?
        @is_no_op ? true : false
      end

      # Whether an earlier run stored how far it got.
      def has_checkpoint?
        !checkpoint.nil?
      end

      # Where to go on: the stored cursor, or the batch's beginning.
      def checkpoint_cursor
        checkpoint ? checkpoint["cursor"] : start_cursor
      end

      # How many items were processed so far.
      def checkpoint_items_processed
        checkpoint ? checkpoint["items_processed"] : 0
      end

      # What was gathered so far; nil at the first run.
      def accumulated_results
        checkpoint && checkpoint["accumulated_results"]
      end
    end

    # What the step that brings batches together finds: the result of the step that split, and those of its batch workers
    # by step name.
    class BatchAggregationScenario
      attr_reader :batchable_result, :batch_results

      class << self
        # Looks at the results of the steps before; raises ArgumentError where they are not those of batches.
        def detect(dependency_results, batchable_step_name, worker_prefix)
          results = dependency_results.respond_to?(:dependency_results) ? dependency_results.dependency_results : dependency_results
          split = results.fetch(batchable_step_name.to_s) do
            raise ArgumentError, "Missing batchable step dependency: #{batchable_step_name}"
          end
          outcome = split.is_a?(Hash) ? split["batch_processing_outcome"] : nil
          return new(split, {}, true) if outcome.is_a?(Hash) && outcome["type"] == "no_batches"

          workers = results.select { |name, _| name.start_with?(worker_prefix.to_s) }
          raise ArgumentError, "No batch workers found with the prefix #{worker_prefix}" if workers.empty?

          new(split, workers, false)
        end
      end

      def initialize(batchable_result, batch_results, is_no_batches)
        @batchable_result = batchable_result
        @batch_results = batch_results
        @is_no_batches = is_no_batches
      end

      # Whether there was nothing to split.
      def no_batches?
        @is_no_batches
      end

      # How many batch workers have results here.
      def worker_count
        batch_results.size
      end
    end
  end
end
