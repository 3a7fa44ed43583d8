# frozen_string_literal: true

# What programs of Tasker 0.1.x call, as docs/migration.md says.
RSpec.describe "names" do
  # The methods of instances, by the name below TaskerCore.
  METHODS = {
    "StepHandler::Base" => %i[call handler_name metadata capabilities config_schema validate_config success failure],
    "StepHandler::Api" => %i[get], "StepHandler::Decision" => %i[decision_success],
    "StepHandler::Batchable" => %i[get_batch_context],
    "StepHandler::Mixins::API" => %i[connection configure_connection get post put delete api_upload_file
                                     api_paginated_request api_success api_failure process_response],
    "StepHandler::Mixins::Decision" => %i[decision_success decision_no_branches decision_with_custom_outcome],
    "StepHandler::Mixins::Batchable" => %i[
      get_batch_context detect_aggregation_scenario handle_no_op_worker create_cursor_configs no_batches_outcome
      create_batches_outcome batch_worker_success checkpoint_yield no_batches_aggregation_result
      aggregate_batch_worker_results
    ],
    "Types::StepContext" => %i[task_uuid step_uuid input_data step_config dependency_results retry_count max_retries
                               get_task_field get_dependency_result namespace_name step_name context retryable?],
    "BatchProcessing::BatchWorkerContext" => %i[start_cursor end_cursor batch_id no_op? checkpoint_cursor
                                                accumulated_results has_checkpoint? checkpoint_items_processed],
    "BatchProcessing::BatchAggregationScenario" => %i[no_batches? batch_results worker_count],
    "Registry::HandlerRegistry" => %i[resolve_handler register_handler handler_available? registered_handlers
                                      bootstrap_handlers!],
    "Client" => %i[create_task get_task list_tasks cancel_task list_task_steps get_step get_step_audit_history
                   health_check],
    "DomainEvents::BasePublisher" => %i[publisher_name should_publish? transform_payload additional_metadata
                                        before_publish after_publish on_publish_error publish],
    "DomainEvents::DefaultPublisher" => %i[publish],
    "DomainEvents::BaseSubscriber" => %i[subscribes_to handle before_handle after_handle on_handle_error matches?],
    "DomainEvents::PublisherRegistry" => %i[register get get_or_default validate_required freeze!],
    "DomainEvents::SubscriberRegistry" => %i[register start_all stop_all stats],
    "Worker::EventPoller" => %i[start! stop! active?], "Worker::EventBridge" => %i[start! stop! active?]
  }.freeze

  METHODS.each do |name, methods|
    it "has #{name} with its methods" do
      missing = methods.reject { |method| TaskerCore.const_get(name).method_defined?(method) }
      expect(missing).to eq([])
    end
  end

  it "has every name that the page about moving calls unchanged" do
    page = File.read(File.expand_path("../../../docs/migration.md", HERE), encoding: "UTF-8")
    unchanged = page[/^## Ruby$.*?^With these differences/m]
    names = unchanged.scan(/`([A-Z][a-z]\w*(?:::\w+)*)(?:\.\w+!?)?[`(]/).flatten - ["TaskerCore"]
    expect(names).to include("Client", "Registry::HandlerRegistry", "DefaultPublisher")
    homes = ["", "StepHandler::", "DomainEvents::"]
    missing = names.reject { |name| homes.any? { |home| Object.const_defined?("TaskerCore::#{home}#{name}") } }
    expect(missing).to eq([])
  end

  it "has what is called on modules and classes" do
    expect(TaskerCore::Worker::Bootstrap).to respond_to(:start!, :stop!, :running?, :status)
    expect(TaskerCore::Tracing).to respond_to(:error, :warn, :info, :debug)
    expect(TaskerCore::Types::StepHandlerCallResult).to respond_to(:success, :error, :checkpoint_yield)
    expect(logged { TaskerCore::Tracing.info("charged", amount: 1) }).to match(/INFO.*charged amount=1$/)
  end

  it "has each error by both of its names" do
    names = TaskerCore::Errors.constants - [:ErrorClassifier]
    expect(names).to include(:RetryableError, :PermanentError, :ValidationError, :NotFoundError, :NetworkError)
    names.each do |name|
      expect(TaskerCore.const_get(name)).to equal(TaskerCore::Errors.const_get(name))
    end
  end

  it "says that shims do nothing where no worker runs" do
    expect(TaskerCore::Worker::EventPoller.instance.stop!.active?).to be(false)
  end
end
